"""The write plan: aligned, within the limit of a partition, every byte exactly once."""

from __future__ import annotations

import random

import pytest

from ckptfmt import index, layout
from ckptfmt.errors import OptionError
from ckptfmt.write_plan import WritePlan, plan_write
from tests.helpers.indexes import MIB, check, decode, index_of, sized, spec


def covered(plan: WritePlan, nbytes: int) -> list[list[int]]:
    """How often each 4 KiB of each tensor was given to a piece; checks pieces on the way."""
    counts = [[0] * -(-sum(e.nbytes for e in t.extents) // 4096) for t in plan.tensors]
    next_block = [0] * len(plan.partitions)
    last = (-1, 0)
    for chunk in plan.chunks(nbytes):
        first, end = chunk.pieces[0], chunk.pieces[-1]
        assert end.offset + end.nbytes - first.offset <= nbytes
        for piece in chunk.pieces:
            assert (chunk.partition, piece.offset) > last  # in order of position
            last = (chunk.partition, piece.offset + piece.nbytes - 1)
            assert piece.block == next_block[chunk.partition]
            next_block[chunk.partition] += layout.block_count(piece.nbytes)
            begin = 0
            for extent in plan.tensors[piece.tensor].extents:
                if extent.partition == chunk.partition:
                    assert piece.offset - extent.offset == piece.start - begin
                    assert piece.offset + piece.nbytes <= extent.offset + extent.nbytes
                begin += extent.nbytes
            assert piece.start % MIB == 0
            for page in range(piece.start // 4096, -(-(piece.start + piece.nbytes) // 4096)):
                counts[piece.tensor][page] += 1
    for number, partition in enumerate(plan.partitions):
        assert layout.table_nbytes(next_block[number]) == partition.table_nbytes
    return counts


@pytest.mark.parametrize("alignment", [4096, 65536, 2 << 20])
def test_tensors_are_aligned_and_in_the_order_given(alignment: int) -> None:
    sizes = [1, 4096, 5000, 3 * MIB]
    plan = plan_write(sized(sizes), alignment=alignment, partition_nbytes=1 << 30)
    offsets = [t.extents[0].offset for t in plan.tensors]
    assert offsets[0] == alignment
    assert offsets == sorted(offsets)
    assert all(offset % alignment == 0 for offset in offsets)
    assert plan.file_nbytes == (
        alignment + plan.partitions[0].payload_nbytes + layout.table_nbytes(6),
    )
    check(index_of(plan))


def test_names_dtypes_and_shapes_are_kept() -> None:
    specs = [spec(("a", "b"), "BF16", 2, 3), spec("c", "F4", 4)]
    plan = plan_write(specs, alignment=4096, partition_nbytes=1 << 30)
    assert [(t.names, t.dtype, t.shape, t.nbytes) for t in plan.tensors] == [
        (("a", "b"), "BF16", (2, 3), 12), (("c",), "F4", (4,), 2),
    ]  # fmt: skip


def test_a_partition_holds_exactly_its_limit() -> None:
    def partitions(limit: int) -> int:
        plan = plan_write(sized([MIB, 4096, 4096]), alignment=4096, partition_nbytes=limit)
        assert max(plan.file_nbytes) <= limit
        return len(plan.partitions)

    exact = 4096 + MIB + 2 * 4096 + layout.table_nbytes(3)
    assert partitions(exact) == 1
    assert partitions(exact - 1) == 2


@pytest.mark.parametrize("alignment", [4096, 1 << 20, 2 << 20])
def test_a_large_tensor_is_cut_in_whole_blocks_and_lands_contiguous(alignment: int) -> None:
    limit = 8 * MIB
    nbytes = 20 * MIB + 12345
    plan = plan_write(
        [spec("small", "U8", 3), spec("large", "U8", nbytes), spec("after", "U8", 7)],
        alignment=alignment, partition_nbytes=limit,
    )  # fmt: skip
    large = plan.tensors[1]
    assert len(large.extents) > 2
    assert [e.partition for e in large.extents] == list(range(1, len(large.extents) + 1))
    assert all(e.offset == alignment for e in large.extents)
    assert all(e.nbytes % max(MIB, alignment) == 0 for e in large.extents[:-1])
    assert large.nbytes == nbytes
    assert max(plan.file_nbytes) <= limit
    # What follows shares the last partition if it fits.
    assert plan.tensors[2].extents[0].partition in (
        large.extents[-1].partition, large.extents[-1].partition + 1
    )  # fmt: skip
    check(index_of(plan))


def test_an_empty_tensor_has_no_bytes_anywhere() -> None:
    plan = plan_write([spec("e", "F32", 0, 3)], alignment=4096, partition_nbytes=1 << 30)
    assert plan.partitions == ()
    assert plan.tensors[0].extents == ()
    assert list(plan.chunks(MIB)) == []


@pytest.mark.parametrize("alignment", [4096, 65536, 1 << 20, 2 << 20])
def test_a_partition_that_holds_nothing_is_refused(alignment: int) -> None:
    unit = max(alignment, MIB)
    least = alignment + unit + 4 * (unit // MIB) + 4
    with pytest.raises(OptionError, match=f"it needs at least {least}"):
        plan_write([], alignment=alignment, partition_nbytes=least - 1)
    plan = plan_write(sized([3 * unit]), alignment=alignment, partition_nbytes=least)
    assert plan.file_nbytes == (least,) * 3


@pytest.mark.parametrize("limit", [0, -1, -(1 << 40)])
def test_a_limit_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(OptionError, match="holds nothing"):
        plan_write([], alignment=4096, partition_nbytes=limit)


@pytest.mark.parametrize("nbytes", [MIB, 3 * MIB, 8 * MIB])
def test_chunks_cover_every_byte_exactly_once(nbytes: int) -> None:
    sizes = [1, 5000, 0, MIB, MIB + 1, 17 * MIB + 3, 4096, 8 * MIB, 8 * MIB - 4096, 12]
    plan = plan_write(sized(sizes), alignment=4096, partition_nbytes=6 * MIB)
    assert all(count == 1 for counts in covered(plan, nbytes) for count in counts)


@pytest.mark.parametrize("seed", range(60))
def test_any_plan_is_a_valid_index(seed: int) -> None:
    rng = random.Random(seed)
    alignment = 4096 << rng.choice([0, 0, 0, 4, 8, 9])
    limit = alignment + 2 * max(alignment, MIB) + rng.randrange(8 * MIB)
    sizes = [int(10 ** rng.uniform(0, 7.3)) - rng.choice([0, 1]) for _ in range(rng.randrange(30))]
    plan = plan_write(sized(sizes), alignment=alignment, partition_nbytes=limit)
    assert all(n <= limit for n in plan.file_nbytes)
    assert [t.nbytes for t in plan.tensors] == sizes
    made = index_of(plan)
    check(made)
    assert decode(index.encode(made)) == made
    counts = covered(plan, MIB * rng.choice([1, 2, 8]))
    assert all(count == 1 for tensor in counts for count in tensor)


def test_partitions_are_filled_as_far_as_tensors_allow() -> None:
    """No tensor is moved to the next partition while it still fits into this one."""
    plan = plan_write(sized([MIB] * 10), alignment=4096, partition_nbytes=4 * MIB)
    sizes = [p.payload_nbytes for p in plan.partitions]
    assert sizes == [3 * MIB, 3 * MIB, 3 * MIB, MIB]
