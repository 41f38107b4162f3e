"""``export``: write a checkpoint back in another format, bit for bit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.errors import OptionError, failing_as
from ckptfmt.export_plan import PLANS, ExportPlan
from ckptfmt.sources.stored import StoredSource
from ckptfmt.target import Target
from ckptfmt.units import parse_nbytes
from ckptfmt.writer import CHUNK_NBYTES

if TYPE_CHECKING:
    from ckptfmt.engine import Progress

DEFAULT_SHARD_NBYTES = 5_000_000_000  # as transformers' save_pretrained


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
        Folder written by ``convert``; if it was cut for ranks, the tensors are joined.
    target : path-like
        The folder to be made; it may not exist, or be empty.
    to : str
        ``"safetensors"``, or ``"sllm"`` for the layout of ServerlessLLM Store.
    shard_size : int or str
        Bytes of tensors in a file, units understood; a larger tensor has a file of its own.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Returns
    -------
    list of str
        Weight files written. In safetensors, tied tensors are in them under each of their names.

    Raises
    ------
    OptionError
        The checkpoint holds the state of ranks. Nothing is written.
    UnsupportedDtypeError
        The format has no such dtype. Nothing is written.
    SourceError
        It cannot hold a tensor of this name. Nothing is written.
    ChecksumError
        The checkpoint is damaged. The target does not appear.
    """
    if to not in PLANS:
        raise OptionError(f"cannot export to {to!r}, expected {' or '.join(map(repr, PLANS))}")
    limit = parse_nbytes(shard_size)
    source = StoredSource(os.fspath(checkpoint))
    try:
        topology = source.files.index.topology
        if topology is not None and topology.kind == "state":
            raise OptionError(
                f"{source.files.path}: holds the state of {topology.tensor_parallel} ranks, which "
                f"no other format has a place for"
            )
        plan = PLANS[to](source.tensors, source.description.metadata, limit)
        return _write(source, plan, os.fspath(target), progress)
    finally:
        source.close()


def _write(
    source: StoredSource, plan: ExportPlan, path: str, progress: Progress | None
) -> list[str]:
    total = sum(item.nbytes for file in plan.files for item in file.items)
    done = 0
    with Target(path, force=False, may_replace=False) as target:
        target.begin({"export": source.files.index.id}, resume=False)
        for file in plan.files:
            full = os.path.join(target.partial, file.name)
            with failing_as(full, "cannot be written"), open(full, "wb") as stream:
                stream.write(file.header)
                for item in file.items:
                    for start in range(0, item.nbytes, CHUNK_NBYTES):
                        chunk = memoryview(bytearray(min(CHUNK_NBYTES, item.nbytes - start)))
                        source.read_into(item.position, start, chunk)
                        stream.write(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, total)
                    stream.write(bytes(item.padding))
                stream.flush()
                os.fsync(stream.fileno())
        for name, data in plan.texts.items():
            target.write_file(name, data)
        for sidecar in source.description.sidecars:
            target.copy_file(sidecar.path, sidecar.name)
        target.finish()
    return [file.name for file in plan.files]
