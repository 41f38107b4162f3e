"""``export``: write a checkpoint back as safetensors, sharded with an index, bit for bit.

The header is made here and not by the safetensors library, which wants a shard's tensors in memory
all at once.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError, SourceError, UnsupportedDtypeError, failing_as
from ckptfmt.sources.stored import StoredSource
from ckptfmt.target import Target
from ckptfmt.units import parse_nbytes
from ckptfmt.writer import CHUNK_NBYTES

if TYPE_CHECKING:
    from ckptfmt.engine import Progress

DEFAULT_SHARD_NBYTES = 5_000_000_000  # as transformers' save_pretrained


@dataclass(frozen=True, slots=True)
class _Item:
    """One tensor under one of its names."""

    name: str
    position: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def export(
    checkpoint: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str = "safetensors",
    shard_size: int | str = DEFAULT_SHARD_NBYTES,
    progress: Progress | None = None,
) -> list[str]:
    """Write a checkpoint back in another format, sidecars included.

    Parameters
    ----------
    checkpoint : path-like
        Folder written by ``convert``.
    target : path-like
        The folder to be made; it may not exist, or be empty.
    to : str
        ``"safetensors"``.
    shard_size : int or str
        Bytes of tensors in a file, units understood; a larger tensor has a file of its own.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Returns
    -------
    list of str
        Weight files written. Tied tensors are in them under each of their names.

    Raises
    ------
    UnsupportedDtypeError
        safetensors has no such dtype. Nothing is written.
    SourceError
        It cannot hold a tensor of this name. Nothing is written.
    ChecksumError
        The checkpoint is damaged. The target does not appear.
    """
    if to != "safetensors":
        raise OptionError(f"cannot export to {to!r}, expected 'safetensors'")
    limit = parse_nbytes(shard_size)
    source = StoredSource(os.fspath(checkpoint))
    try:
        shards = _shards(_items(source), limit)
        return _write(source, shards, os.fspath(target), progress)
    finally:
        source.close()


def _items(source: StoredSource) -> list[_Item]:
    items = []
    for position, spec in enumerate(source.tensors):
        if not DTYPES[spec.dtype].in_safetensors:
            raise UnsupportedDtypeError(
                f"safetensors has no dtype for {spec.dtype}, which tensor {spec.names[0]!r} has"
            )
        if "__metadata__" in spec.names:
            raise SourceError("safetensors cannot hold a tensor named '__metadata__'")
        items += [_Item(n, position, spec.dtype, spec.shape, spec.nbytes) for n in spec.names]
    return items


def _shards(items: list[_Item], limit: int) -> list[list[_Item]]:
    shards: list[list[_Item]] = [[]]
    filled = 0
    for item in items:
        if shards[-1] and filled + item.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += item.nbytes
    # Wide dtypes first, as the library does: then every tensor lies on a multiple of its element.
    return [sorted(shard, key=lambda item: -DTYPES[item.dtype].bits) for shard in shards]


def _write(
    source: StoredSource, shards: list[list[_Item]], path: str, progress: Progress | None
) -> list[str]:
    count = len(shards)
    files = [
        "model.safetensors" if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors"
        for i in range(1, count + 1)
    ]
    total = sum(item.nbytes for shard in shards for item in shard)
    done = 0
    with Target(path, force=False, may_replace=False) as target:
        target.begin({"export": source.checkpoint.index.id}, resume=False)
        for file, shard in zip(files, shards, strict=True):
            full = os.path.join(target.partial, file)
            with failing_as(full, "cannot be written"), open(full, "wb") as stream:
                # Readers of torch models look for the framework, which torch files do not tell.
                metadata = {"format": "pt", **source.description.metadata}
                stream.write(_header(shard, metadata))
                for item in shard:
                    for start in range(0, item.nbytes, CHUNK_NBYTES):
                        chunk = memoryview(bytearray(min(CHUNK_NBYTES, item.nbytes - start)))
                        source.read_into(item.position, start, chunk)
                        stream.write(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, total)
                stream.flush()
                os.fsync(stream.fileno())
        if count > 1:
            weight_map = {
                item.name: file
                for file, shard in zip(files, shards, strict=True)
                for item in shard
            }
            text = {
                "metadata": {"total_size": total},
                "weight_map": dict(sorted(weight_map.items())),
            }
            data = json.dumps(text, indent=2, ensure_ascii=False).encode() + b"\n"
            target.write_file("model.safetensors.index.json", data)
        for sidecar in source.description.sidecars:
            target.copy_file(sidecar.path, sidecar.name)
        target.finish()
    return files


def _header(shard: list[_Item], metadata: dict[str, str]) -> bytes:
    """A safetensors header: length, JSON, spaces to a multiple of 8 (its README, "Format")."""
    fields: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for item in shard:
        fields[item.name] = {
            "dtype": item.dtype,
            "shape": list(item.shape),
            "data_offsets": [offset, offset + item.nbytes],
        }
        offset += item.nbytes
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
