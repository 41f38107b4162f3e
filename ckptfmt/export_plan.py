"""Which files an export has, and what stands in them: pure, for each format one function."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError, SourceError, UnsupportedDtypeError
from ckptfmt.layout import align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptfmt.write_plan import TensorSpec

#: As ServerlessLLM's writer; and what it pads each tensor to.
SLLM_PARTITION_NBYTES = 10 << 30
SLLM_ALIGNMENT = 8
#: What ServerlessLLM's loader can restore.
SLLM_DTYPES = ("F16", "F32", "F64", "BF16", "I8", "I16", "I32", "I64", "U8")


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor in a file, under one of its names; `padding` are zero bytes behind it."""

    name: str
    position: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file: its header, then the tensors one behind the other."""

    name: str
    header: bytes
    items: list[Item]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """All files: of weights, and small ones by name."""

    files: list[WeightFile]
    texts: dict[str, bytes] = field(default_factory=dict)


def plan_safetensors(
    tensors: Sequence[TensorSpec], metadata: dict[str, str], limit: int
) -> ExportPlan:
    """Shards of `limit` bytes with an index. Tied tensors are in them under each of their names.

    The header is made here and not by the safetensors library, which wants a shard's tensors in
    memory all at once.
    """
    items = []
    for position, spec in enumerate(tensors):
        if not DTYPES[spec.dtype].in_safetensors:
            raise UnsupportedDtypeError(
                f"safetensors has no dtype for {spec.dtype}, which tensor {spec.names[0]!r} has"
            )
        if "__metadata__" in spec.names:
            raise SourceError("safetensors cannot hold a tensor named '__metadata__'")
        items += [Item(n, position, spec.dtype, spec.shape, spec.nbytes) for n in spec.names]
    shards = _filled(items, limit)
    count = len(shards)
    # Readers of torch models look for the framework, which torch files do not tell.
    metadata = {"format": "pt", **metadata}
    files = []
    for number, shard in enumerate(shards, 1):
        # Wide dtypes first, as the library does: so each tensor lies on a multiple of its element.
        shard.sort(key=lambda item: -DTYPES[item.dtype].bits)
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        name = "model.safetensors" if count == 1 else name
        files.append(WeightFile(name, _safetensors_header(shard, metadata), shard))
    if count == 1:
        return ExportPlan(files)
    index = {
        "metadata": {"total_size": sum(item.nbytes for item in items)},
        "weight_map": dict(sorted((i.name, file.name) for file in files for i in file.items)),
    }
    text = json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
    return ExportPlan(files, {"model.safetensors.index.json": text})


def _safetensors_header(shard: list[Item], metadata: dict[str, str]) -> bytes:
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


def plan_sllm(
    tensors: Sequence[TensorSpec], metadata: dict[str, str], limit: int
) -> ExportPlan:
    """Partitions of ServerlessLLM Store and their index. Tied tensors have the same offset there.

    Offsets count through all partitions. There is no place for `metadata`.
    """
    del metadata
    if limit > SLLM_PARTITION_NBYTES:
        raise OptionError(
            f"a partition of {limit} bytes, ServerlessLLM Store has at most {SLLM_PARTITION_NBYTES}"
        )
    items = []
    for position, spec in enumerate(tensors):
        if spec.dtype not in SLLM_DTYPES:
            raise UnsupportedDtypeError(
                f"ServerlessLLM cannot restore {spec.dtype}, which tensor {spec.names[0]!r} has",
                hint=f"it can restore {', '.join(SLLM_DTYPES)}: convert with --dtype, or --exclude",
            )
        padding = align_up(spec.nbytes, SLLM_ALIGNMENT) - spec.nbytes
        names = spec.names
        items.append(Item(names[0], position, spec.dtype, spec.shape, spec.nbytes, padding))
    parts = _filled(items, limit)
    files = [WeightFile(f"tensor.data_{n}", b"", part) for n, part in enumerate(parts)]
    index: dict[str, object] = {}
    offset = 0
    for file in files:
        for item in file.items:
            dtype = f"torch.{DTYPES[item.dtype].torch_name}"
            entry = [offset, item.nbytes, item.shape, _strides(item.shape), dtype]
            index.update(dict.fromkeys(tensors[item.position].names, entry))
            offset += item.nbytes + item.padding
    return ExportPlan(files, {"tensor_index.json": json.dumps(index).encode()})


def _strides(shape: tuple[int, ...]) -> list[int]:
    """As torch counts those of a contiguous tensor, empty dimensions as if they were one."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * max(shape[i], 1)
    return strides


def _filled(items: list[Item], limit: int) -> list[list[Item]]:
    """Files in order; each ends where the next tensor does not fit."""
    files: list[list[Item]] = [[]]
    filled = 0
    for item in items:
        nbytes = item.nbytes + item.padding
        if files[-1] and filled + nbytes > limit:
            files.append([])
            filled = 0
        files[-1].append(item)
        filled += nbytes
    return files


#: Given tensors, metadata and the limit of a file.
PLANS: dict[str, Callable[[Sequence[TensorSpec], dict[str, str], int], ExportPlan]] = {
    "safetensors": plan_safetensors,
    "sllm": plan_sllm,
}
