"""Indexes to decode, whole and broken, and what must hold for every one that decodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import pytest

from ckptfmt import index, layout
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FormatError
from ckptfmt.index import Index
from ckptfmt.topology import Cut, Topology
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


def piece(
    name: str | tuple[str, ...], dtype: str, *shape: int, rank: int, dim: int, blocks: list[int]
) -> TensorSpec:
    """What one rank has of a tensor that was cut."""
    return replace(spec(name, dtype, *shape), rank=rank, cut=Cut(dim, tuple(blocks)))


def ranked_index(kind: Literal["cut", "state"] = "cut", **fields: Any) -> Index:
    """Two ranks, in five partitions: pieces along both dimensions, of one block and of two."""
    specs = [spec("norm", "F32", 5), spec(("empty", "also"), "F32", 0)]
    for rank in range(2):
        if kind == "state":
            specs += [replace(spec("w", "U8", 7), rank=rank)]
            specs += [replace(spec("mine", "F32", 3), rank=1)] if rank else []
            continue
        specs += [
            piece(("embed", "head"), "BF16", 4, 3, rank=rank, dim=0, blocks=[8]),
            piece("gate_up", "F32", 5, 2, rank=rank, dim=1, blocks=[2, 2]),
            piece("large", "U8", MIB + 4096, rank=rank, dim=0, blocks=[2 * MIB + 8192]),
        ]
    given: dict[str, Any] = {
        "requires": ("rank-partitions",), "topology": Topology(kind, 2, {"engine": "x 1.2"}),
    }  # fmt: skip
    return make_index(specs, partition_nbytes=MIB + 3 * 4096, **{**given, **fields})


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
    assert set(made.requires) == (set() if made.topology is None else {"rank-partitions"})
    assert len(bytes.fromhex(made.id)) == 16
    assert made.alignment in {4096 << i for i in range(10)}
    ranks = 1 if made.topology is None else min(made.topology.tensor_parallel, 8)
    for rank in range(ranks):
        seen = [t for t in made.tensors if t.rank is None or t.rank == rank]
        names = [name for tensor in seen for name in tensor.names]
        assert len(names) == len(set(names))
    assert all(tensor.names for tensor in made.tensors)
    owners: dict[int, set[int | None]] = {}
    for tensor in made.tensors:
        assert tensor.rank is None or made.topology is not None
        for extent in tensor.extents:
            owners.setdefault(extent.partition, set()).add(tensor.rank)
    assert all(len(found) == 1 for found in owners.values())
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
