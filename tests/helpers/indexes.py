"""Indexes to decode, whole and broken, and what must hold for every one that decodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import pytest

from ckptfmt import index, layout
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FormatError
from ckptfmt.index import Index
from ckptfmt.write_plan import TensorSpec, WritePlan, plan_write

WHERE = "model.ckpt/ckptfmt.json"
ID = "00112233445566778899aabbccddeeff"
MIB = 1 << 20
Fields = dict[str, Any]


def spec(name: str | tuple[str, ...], dtype: str, *shape: int) -> TensorSpec:
    """A tensor to plan; several names are tied."""
    return TensorSpec((name,) if isinstance(name, str) else name, dtype, shape)


def sized(nbytes: Sequence[int]) -> list[TensorSpec]:
    """Tensors of so many bytes each, named by their position."""
    return [spec(f"t{i}", "U8", n) for i, n in enumerate(nbytes)]


def index_of(plan: WritePlan, **fields: Any) -> Index:
    """The index of a plan; `fields` replace its own."""
    given: dict[str, Any] = {
        "format": index.FORMAT_NAME,
        "version": (layout.MAJOR, layout.MINOR),
        "requires": (),
        "id": ID,
        "alignment": plan.alignment,
        "block_nbytes": layout.BLOCK_NBYTES,
        "partitions": plan.partitions,
        "tensors": plan.tensors,
    }
    return Index(**{**given, **fields})


def make_index(
    specs: Sequence[TensorSpec],
    *,
    alignment: int = 4096,
    partition_nbytes: int = 4000 * MIB,
    **fields: Any,
) -> Index:
    """Plan and index of some tensors."""
    plan = plan_write(specs, alignment=alignment, partition_nbytes=partition_nbytes)
    return index_of(plan, **fields)


def small_index() -> Index:
    """Two partitions: tied names, an empty tensor, a scalar, and a tensor that spans both."""
    return make_index(
        [
            spec(("embed", "head"), "BF16", 3, 5),
            spec("scale", "F32"),
            spec("empty", "F32", 0, 5),
            spec("big", "U8", 3 * MIB + 17),
        ],
        partition_nbytes=2 * MIB + 5 * 4096,
        metadata={"format": "pt"},
        provenance={"tool": "test", "source": {"kind": "live", "files": []}, "rate": 0.5},
    )


def plain(made: Index) -> dict[str, Any]:
    """An index as JSON values, to be broken."""
    return json.loads(index.encode(made))


def decode(fields: dict[str, Any] | str | bytes) -> Index:
    """Decode JSON values or text."""
    if isinstance(fields, dict):
        fields = json.dumps(fields)
    return index.decode(fields.encode() if isinstance(fields, str) else fields, WHERE)


def broken(change: Callable[[Fields], object], *specs: Any, **options: Any) -> Fields:
    """A good index with one thing changed."""
    fields = plain(make_index(specs, **options) if specs else small_index())
    assert decode(fields)
    change(fields)
    return fields


def put(*path: str | int, value: object) -> Callable[[Fields], None]:
    """A change: set one value, found by keys and positions."""

    def change(fields: Fields) -> None:
        at: Any = fields
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return change


def refused(fields: Fields | str | bytes, message: str) -> None:
    """The one exception there is for a wrong index; it says where."""
    with pytest.raises(FormatError, match=message) as caught:
        decode(fields)
    assert type(caught.value) is FormatError
    assert str(caught.value).startswith(WHERE)


def check(made: Index) -> None:
    """What nobody has to doubt after decoding, found out here in another way than there.

    Every byte of every payload belongs to one extent or is padding behind one.
    """
    assert made.format == "ckptfmt"
    assert made.version[0] == 1
    assert not made.requires
    assert len(bytes.fromhex(made.id)) == 16
    assert made.alignment in {4096 << i for i in range(10)}
    names = [name for tensor in made.tensors for name in tensor.names]
    assert len(names) == len(set(names))
    assert all(tensor.names for tensor in made.tensors)
    spans: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(made.partitions))}
    blocks = dict.fromkeys(spans, 0)
    for tensor in made.tensors:
        bits = prod(tensor.shape) * DTYPES[tensor.dtype].bits
        assert sum(e.nbytes for e in tensor.extents) == -(-bits // 8)
        for number, extent in enumerate(tensor.extents):
            assert extent.nbytes > 0
            assert extent.offset % made.alignment == 0
            padded = -(-extent.nbytes // made.alignment) * made.alignment
            spans[extent.partition].append((extent.offset, extent.offset + padded))
            blocks[extent.partition] += -(-extent.nbytes // MIB)
            if number:
                assert extent.partition == tensor.extents[number - 1].partition + 1
    for number, partition in enumerate(made.partitions):
        assert partition.file == f"part-{number:05d}.ckptfmt"
        assert partition.table_nbytes == 4 * (blocks[number] + 1)
        edges = [made.alignment]
        for start, stop in sorted(spans[number]):
            assert start == edges[-1]
            edges.append(stop)
        assert edges[-1] == made.alignment + partition.payload_nbytes
        assert spans[number]
    assert sum(p.payload_nbytes for p in made.partitions) < 1 << 63
