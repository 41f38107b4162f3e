"""Pieces of tensors, joined and cut again, against plain slicing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest

from ckptfmt import gathering
from ckptfmt.errors import OptionError
from ckptfmt.gathering import Gather, Run, gather, itself
from ckptfmt.pieces import Whole, wholes
from ckptfmt.topology import Cut, Piece
from ckptfmt.write_plan import TensorSpec

Arrays = list[np.ndarray]
DTYPES = {1: "U8", 2: "I16", 4: "I32"}


def reader(arrays: Arrays) -> Callable[[int, int, memoryview], None]:
    """Bytes of arrays by position, as a source gives them."""

    def read(tensor: int, start: int, buffer: memoryview) -> None:
        data = arrays[tensor].tobytes()
        assert start + len(buffer) <= len(data)
        buffer[:] = data[start : start + len(buffer)]

    return read


def collect(gathered: Gather, arrays: Arrays, nbytes: int, rng: random.Random) -> bytes:
    """All bytes of the result, asked for in parts of any size, in any order."""
    found = bytearray(nbytes)
    cuts = sorted({0, nbytes, *(rng.randrange(nbytes + 1) for _ in range(rng.randrange(4)))})
    parts = list(itertools.pairwise(cuts))
    rng.shuffle(parts)
    for start, stop in parts:
        gathered.read_into(reader(arrays), start, memoryview(found)[start:stop])
    return bytes(found)


def sliced(array: np.ndarray, cut: Cut, ranks: int, rank: int) -> np.ndarray:
    """A rank's piece by numpy alone."""
    blocks = np.split(array, np.cumsum(cut.blocks)[:-1], axis=cut.dim)
    return np.concatenate([np.split(b, ranks, axis=cut.dim)[rank] for b in blocks], axis=cut.dim)


@pytest.mark.parametrize("strip", [0, 64, 4 << 20])
def test_pieces_are_what_slicing_gives(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "STRIP_NBYTES", strip)
    rng = random.Random(strip)
    for _ in range(200):
        dims = rng.randrange(1, 4)
        dim = rng.randrange(dims)
        stored, again = rng.choice([1, 2, 3, 4]), rng.choice([1, 2, 3, 4])
        unit = stored * again
        blocks = tuple(unit * rng.randrange(1, 3) for _ in range(rng.randrange(1, 4)))
        shape = [rng.randrange(1, 5) for _ in range(dims)]
        shape[dim] = sum(blocks)
        itemsize = rng.choice([1, 2, 4])
        array = np.arange(np.prod(shape), dtype=f"i{itemsize}" if itemsize > 1 else "u1")
        array = array.reshape(shape)
        cut = Cut(dim, blocks)
        spec = TensorSpec(("w",), DTYPES[itemsize], tuple(shape))
        whole = Whole(spec, cut, (0,))
        pieces = []
        for rank in range(stored):
            found, gathered = whole.of_rank(stored, rank)
            expected = sliced(array, cut, stored, rank)
            assert found.shape == expected.shape
            assert collect(gathered, [array], found.nbytes, rng) == expected.tobytes()
            pieces.append(expected)
        joined = Whole(spec, cut, tuple(range(stored)))
        for rank in range(again):
            found, gathered = joined.of_rank(again, rank)
            expected = sliced(array, cut, again, rank)
            assert collect(gathered, pieces, found.nbytes, rng) == expected.tobytes()


def test_bits_of_packed_dtypes_are_cut_by_bytes() -> None:
    spec = TensorSpec(("w",), "F4", (4, 6))
    array = np.arange(12, dtype=np.uint8).reshape(4, 3)
    found, gathered = Whole(spec, Cut(0, (4,)), (0,)).of_rank(2, 1)
    assert found.shape == (2, 6)
    assert collect(gathered, [array], 6, random.Random(0)) == array[2:].tobytes()


def test_runs_that_follow_each_other_are_one() -> None:
    cut = Cut(0, (4, 4))
    spec = TensorSpec(("w",), "U8", (8,))
    assert Whole(spec, cut, (0,)).of_rank(1, 0)[1] == Gather(1, (Run(0, 8, 0, 8),))
    assert itself(3, 5) == Gather(1, (Run(3, 5, 0, 5),))
    assert gather([(2, 6)], [(0, [(0, 4)]), (1, [(4, 8)])], 3, 8) == Gather(
        3, (Run(0, 4, 2, 2), Run(1, 4, 0, 2))
    )


def test_long_runs_are_read_in_place() -> None:
    """Straight into the buffer that was given, and nothing else."""
    asked = []
    gathered = Gather(2, (Run(0, 1 << 20, 1 << 19, 1 << 19),))

    def read(tensor: int, start: int, buffer: memoryview) -> None:
        asked.append((tensor, start, len(buffer)))

    gathered.read_into(read, 7, memoryview(bytearray(1 << 19)))
    assert asked == [(0, (1 << 19) + 7, (1 << 19) - 7), (0, (1 << 20) + (1 << 19), 7)]


def test_short_runs_are_read_by_whole_rows_in_bounded_memory() -> None:
    asked = []
    gathered = Gather(1000, (Run(0, 1 << 16, 100, 1 << 15),))

    def read(tensor: int, start: int, buffer: memoryview) -> None:
        asked.append((start % (1 << 16), len(buffer)))

    gathered.read_into(read, 0, memoryview(bytearray(8 << 20)))
    assert {start for start, _ in asked} == {0}
    assert max(nbytes for _, nbytes in asked) == gathering.STRIP_NBYTES
    assert sum(nbytes for _, nbytes in asked) == 16 << 20


def test_wholes_of_a_checkpoint_in_pieces() -> None:
    cut = Cut(1, (6,))
    shared = TensorSpec(("norm",), "F32", (5,))
    pieces = [TensorSpec(("a", "b"), "F32", (2, 2), rank, cut) for rank in range(3)]
    first, second = wholes([shared, *pieces], 3)
    assert first == Whole(shared, None, (0,))
    assert second == Whole(TensorSpec(("a", "b"), "F32", (2, 6)), cut, (1, 2, 3))
    assert second.piece(2, 1) == Piece(1, 3, 6, (2, 6))
    assert second.piece(1, 0) is None
    assert first.piece(2, 1) is None
    assert Whole(second.spec, Cut(1, (2, 4)), (1,)).piece(2, 0) is None
    with pytest.raises(OptionError, match="'a' cannot be cut for 4 ranks: dimension 1 is 6, not"):
        second.of_rank(4, 0)
