"""The read plan: the chosen bytes and few others, in ops that the engine can carry out."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from ckptfmt.extents import MAX_GAP, Extents, compact_addresses
from ckptfmt.index import Index
from ckptfmt.read_plan import (
    BLOCK_DTYPE,
    OP_DTYPE,
    ReadPlan,
    plan_read,
)
from tests.helpers.indexes import MIB, make_index, sized, small_index


def plan(
    made: Index, tensors: Sequence[int] | None = None, *, op_mib: int = 4, padding: bool = False
) -> tuple[ReadPlan, Extents, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Plan some tensors with checksums that tell which block they belong to."""
    extents = Extents.of(made)
    chosen = extents.of_tensors(range(len(made.tensors)) if tensors is None else tensors)
    addresses = compact_addresses(extents, chosen)
    crcs = np.arange(len(list(made.blocks())), dtype=np.uint32) + 1000
    made_plan = plan_read(
        extents, chosen, addresses, crcs, op_nbytes=op_mib * MIB, padding=padding
    )
    return made_plan, extents, chosen, addresses


def examine(
    made: Index, tensors: Sequence[int], *, op_mib: int = 4, padding: bool = False
) -> ReadPlan:
    """Check a plan against the index, block by block, without the plan's own arithmetic."""
    found, extents, chosen, addresses = plan(made, tensors, op_mib=op_mib, padding=padding)
    blocks = list(made.blocks())
    wanted = {
        i for i, (tensor, *_) in enumerate(blocks) if made.tensors.index(tensor) in set(tensors)
    }
    assert set(found.block_ids.tolist()) == wanted
    assert len(found.block_ids) == len(wanted)
    place = {
        (int(extents.partition[c]), int(extents.offset[c])): int(a)
        for c, a in zip(chosen.tolist(), addresses.tolist(), strict=True)
    }
    limits = {
        (int(extents.partition[c]), int(extents.offset[c])): int(extents.span[c])
        for c in chosen.tolist()
    }
    at = 0
    for op in found.ops:
        assert op["first_block"] == at
        assert op["n_blocks"] > 0
        assert op["offset"] % 4096 == 0
        assert op["nbytes"] <= op["room"]
        for number in range(at, at + int(op["n_blocks"])):
            block = found.blocks[number]
            _, extent, offset, nbytes = blocks[int(found.block_ids[number])]
            assert block["crc"] == 1000 + found.block_ids[number]
            assert block["nbytes"] == nbytes
            assert extent.partition == op["file"]
            assert op["offset"] + block["start"] == offset
            key = (extent.partition, extent.offset)
            # In memory it stands where its extent goes.
            assert op["address"] + block["start"] == place[key] + offset - extent.offset
            assert block["start"] + block["nbytes"] <= op["nbytes"]
        at += int(op["n_blocks"])
        # The last block's padding is the end of what may be written.
        last = place[key] + limits[key]
        assert op["address"] + op["room"] <= last
    assert at == len(found.blocks)
    return found


def test_rows_are_as_large_as_the_engines_structures() -> None:
    assert OP_DTYPE.itemsize == 48
    assert BLOCK_DTYPE.itemsize == 16


def test_extents_are_the_index_in_columns() -> None:
    extents = Extents.of(small_index())
    assert extents.tensor.tolist() == [0, 1, 3, 3]
    assert extents.partition.tolist() == [0, 0, 1, 2]
    assert extents.offset.tolist() == [4096, 8192, 4096, 4096]
    assert extents.nbytes.tolist() == [30, 4, 2 * MIB, MIB + 17]
    assert extents.first_block.tolist() == [0, 1, 2, 4]
    assert extents.span.tolist() == [4096, 4096, 2 * MIB, MIB + 4096]
    assert extents.of_tensors([3]).tolist() == [2, 3]
    assert extents.of_tensors([2]).tolist() == []
    assert extents.of_tensors([]).tolist() == []
    assert extents.of_tensors([3, 0]).tolist() == [0, 2, 3]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_nothing_to_read_is_an_empty_plan(sizes: list[int]) -> None:
    found, *_ = plan(make_index(sized(sizes)))
    assert len(found.ops) == len(found.blocks) == found.nbytes == 0


def test_small_neighbours_share_an_op() -> None:
    found = examine(make_index(sized([10, 4096, 5000, 1])), [0, 1, 2, 3])
    assert len(found.ops) == 1
    assert found.nbytes == 4096 + 4096 + 8192 + 1
    assert found.ops["room"].tolist() == [5 * 4096]
    assert found.blocks["start"].tolist() == [0, 4096, 8192, 16384]


def test_an_op_ends_where_a_tensor_is_left_out() -> None:
    found = examine(make_index(sized([10, 4096, 5000, 1])), [0, 1, 3])
    assert found.ops["offset"].tolist() == [4096, 5 * 4096]
    assert found.nbytes == 8192 + 1


def test_one_tensor_costs_its_own_bytes() -> None:
    found = examine(make_index(sized([100 * MIB, 4096, 100 * MIB])), [1])
    assert found.nbytes == 4096
    assert len(found.ops) == 1


@pytest.mark.parametrize("op_mib", [1, 2, 4, 7])
def test_a_large_tensor_is_read_in_ops_of_the_size_asked_for(op_mib: int) -> None:
    found = examine(make_index(sized([20 * MIB + 5])), [0], op_mib=op_mib)
    assert (found.ops["nbytes"][:-1] == op_mib * MIB).all()
    assert found.nbytes == 20 * MIB + 5


@pytest.mark.parametrize("op_mib", [1, 4, 7])
def test_a_read_in_flight_stays_within_the_op_and_a_block(op_mib: int) -> None:
    sizes = [MIB - 4096, 3 * MIB, 777, MIB + 1, *[50_000] * 200, 9 * MIB]
    made = make_index(sized(sizes))
    found = examine(made, range(len(sizes)), op_mib=op_mib)
    assert found.ops["room"].max() <= (op_mib + 1) * MIB
    assert len(found.ops) <= -(-sum(sizes) // (op_mib * MIB)) + 2


def test_padding_worth_leaving_out_is_left_out() -> None:
    made = make_index(sized([4096, 4096]), alignment=2 * MIB)
    found = examine(made, [0, 1])
    assert found.nbytes == 2 * 4096
    assert len(found.ops) == 2
    assert 2 * MIB - 4096 > MAX_GAP


def test_padding_is_read_when_it_is_to_be_looked_at() -> None:
    made = make_index(sized([10, MIB + 1]), alignment=2 * MIB)
    found = examine(made, [0, 1], padding=True)
    assert found.nbytes == 4 * MIB
    assert found.blocks["start"].tolist()[0] == 0


def test_ops_of_two_partitions_are_apart() -> None:
    found = examine(small_index(), [0, 1, 2, 3])
    assert found.ops["file"].tolist() == [0, 1, 2]


def test_a_target_elsewhere_in_memory_splits_an_op() -> None:
    made = make_index(sized([4096, 4096, 4096]))
    extents = Extents.of(made)
    chosen = extents.of_tensors([0, 1, 2])
    crcs = np.zeros(3, np.uint32)
    found = plan_read(
        extents, chosen, np.array([0, 4096, 1 << 20]), crcs, op_nbytes=4 * MIB,
        room=extents.nbytes[chosen],
    )  # fmt: skip
    assert found.ops["address"].tolist() == [0, 1 << 20]
    assert found.ops["nbytes"].tolist() == [8192, 4096]


def test_room_of_the_tensor_alone_keeps_the_padding_out() -> None:
    made = make_index(sized([10, 20]))
    extents = Extents.of(made)
    chosen = extents.of_tensors([0, 1])
    found = plan_read(
        extents, chosen, np.array([0, 4096]), np.zeros(2, np.uint32), op_nbytes=4 * MIB,
        room=extents.nbytes[chosen],
    )  # fmt: skip
    # The bytes between the two in memory are not ours to write.
    assert found.ops["room"].tolist() == [10, 20]
    assert found.ops["nbytes"].tolist() == [10, 20]


@pytest.mark.parametrize("seed", range(40))
def test_any_choice_of_any_plan_is_read_whole(seed: int) -> None:
    rng = random.Random(seed)
    alignment = 4096 << rng.choice([0, 0, 0, 4, 8, 9])
    count = rng.randrange(25)
    sizes = [int(10 ** rng.uniform(0, 7)) * rng.choice([0, 1, 1, 1]) for _ in range(count)]
    limit = alignment + 2 * max(alignment, MIB) + rng.randrange(8 * MIB)
    made = make_index(sized(sizes), alignment=alignment, partition_nbytes=limit)
    tensors = sorted(rng.sample(range(len(sizes)), rng.randint(0, len(sizes))))
    examine(made, tensors, op_mib=rng.choice([1, 4, 7]), padding=rng.random() < 0.3)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_cut_plan_makes_the_same_reads_in_more_ops(seed: int, padding: bool) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([1, 5000, 4096, 700_000, MIB, 3 * MIB + 5]) for _ in range(30)]
    made = make_index(sized(sizes))
    whole, *_ = plan(made, padding=padding)
    before = np.array([rng.random() < 0.3 for _ in range(len(whole.blocks))])
    found = whole.cut(before)
    begins = found.ops["first_block"]
    assert set(np.flatnonzero(before)) | set(whole.ops["first_block"]) == set(begins)
    assert found.nbytes == whole.nbytes
    owners = np.searchsorted(begins, range(len(before)), "right") - 1
    assert found.op_of_block.tolist() == owners.tolist()
    for field in ("offset", "address"):
        old = whole.ops[field][whole.op_of_block] + whole.blocks["start"]
        new = found.ops[field][found.op_of_block] + found.blocks["start"]
        assert np.array_equal(old, new)
    for field in ("nbytes", "crc"):
        assert np.array_equal(whole.blocks[field], found.blocks[field])
    for op, following in zip(found.ops, [*found.ops[1:], None], strict=True):
        last = found.blocks[int(op["first_block"]) + int(op["n_blocks"]) - 1]
        assert last["start"] + last["nbytes"] <= op["nbytes"] <= op["room"]
        assert op["offset"] % 4096 == 0
        if following is not None and following["offset"] > op["offset"]:
            assert op["offset"] + op["room"] <= following["offset"]
