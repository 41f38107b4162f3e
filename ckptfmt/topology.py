"""Partitions of ranks, as the index tells of them: docs/format.md, section 13.

Pure. `check` is the part of the index's validation that is about ranks.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptfmt.index import TensorEntry

#: In ``requires`` of a checkpoint that has such partitions.
FEATURE = "rank-partitions"
MAX_RANKS = 65536
#: As every integer of the index.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Topology(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the ranks of a checkpoint are.

    Attributes
    ----------
    kind : str
        ``cut``: ranks have pieces of whole tensors, which can be joined again. ``state``: they have
        tensors of their own, in a layout that only who stored them knows.
    tensor_parallel : int
        How many ranks there are.
    layout : dict of str to str
        What else a reader has to have in common with who stored them.
    """

    kind: Literal["cut", "state"]
    tensor_parallel: Count
    layout: dict[str, str] = {}


class Cut(msgspec.Struct, frozen=True, gc=False):
    """How a whole tensor was cut: each of its blocks, which follow each other along one dimension.

    A weight that was made of several (the rows for queries, keys and values, for example) has
    several blocks, and a rank has the same share of each.

    Attributes
    ----------
    dim : int
        The dimension, from 0.
    blocks : tuple of int
        How much of it each block takes in the whole tensor.
    """

    dim: Count
    blocks: tuple[Count, ...]

    def ranges(self, ranks: int, rank: int) -> Iterator[tuple[int, int]]:
        """What one of so many ranks has along the dimension, half-open, in order."""
        start = 0
        for block in self.blocks:
            share = block // ranks
            yield start + rank * share, start + (rank + 1) * share
            start += block

    def why_not(self, dtype: str, shape: Sequence[int], ranks: int) -> str:
        """Why a whole tensor of this shape cannot be cut so for so many ranks; empty if it can."""
        inner = prod(shape[self.dim + 1 :]) * DTYPES[dtype].bits
        for block in self.blocks:
            if block % ranks:
                return f"dimension {self.dim} is {_text(self.blocks)}, not a multiple of {ranks}"
            if block // ranks * inner % 8:
                return f"a share of dimension {self.dim} would not be whole bytes"
            if self.dim == len(shape) - 1 and block // ranks % DTYPES[dtype].pack:
                return f"a share of dimension {self.dim} would end within a byte"
        return ""


class Piece(NamedTuple):
    """Which part of a whole tensor one is: ``start`` to ``stop``, half-open, of dimension `dim`."""

    dim: int
    start: int
    stop: int
    shape_of_the_whole: tuple[int, ...]


def _text(blocks: Sequence[int]) -> str:
    return " + ".join(map(str, blocks))


def check(
    tensors: Sequence[TensorEntry], requires: Sequence[str], topology: Topology | None, where: str
) -> None:
    """Refuse what section 13 forbids, but for names and extents, which have checks of their own."""
    if topology is None:
        if FEATURE in requires:
            raise FormatError(f"{where}: requires {FEATURE!r} and has no topology")
        for tensor in tensors:
            if tensor.rank is not None or tensor.cut is not None:
                raise FormatError(f"{where}: tensor {tensor.name!r} has a rank, without a topology")
        return
    if FEATURE not in requires:
        raise FormatError(f"{where}: has a topology and does not require {FEATURE!r}")
    ranks, last = topology.tensor_parallel, -1
    if not 1 <= ranks <= MAX_RANKS:
        raise FormatError(f"{where}: {ranks} ranks, expected 1 to {MAX_RANKS}")
    of_ranks: dict[int, list[TensorEntry]] = {}
    for tensor in tensors:
        rank = -1 if tensor.rank is None else tensor.rank
        if not last <= rank < ranks:
            raise FormatError(
                f"{where}: tensor {tensor.name!r} is of rank {tensor.rank}, of {ranks} in order"
            )
        if (tensor.cut is not None) != (topology.kind == "cut" and rank >= 0):
            raise FormatError(
                f"{where}: tensor {tensor.name!r} of {'no rank' if rank < 0 else f'rank {rank}'} "
                f"{'is' if tensor.cut else 'is not'} cut, in a checkpoint of kind {topology.kind!r}"
            )
        last = rank
        if rank >= 0:
            of_ranks.setdefault(rank, []).append(tensor)
    if topology.kind == "cut" and of_ranks:
        _check_pieces(of_ranks, ranks, where)


def _check_pieces(of_ranks: dict[int, list[TensorEntry]], ranks: int, where: str) -> None:
    """All ranks have pieces of the same tensors, in the same order."""
    first = [(t.names, t.dtype, t.shape, t.cut) for t in of_ranks.get(0, ())]
    for rank in range(ranks):
        mine = of_ranks.get(rank, [])
        if rank and [(t.names, t.dtype, t.shape, t.cut) for t in mine] != first:
            raise FormatError(f"{where}: rank {rank} has pieces of other tensors than rank 0")
    for tensor in of_ranks[0]:
        shape, cut = tensor.shape, tensor.cut
        if cut is None or cut.dim >= len(shape) or not all(cut.blocks) or not all(shape):
            raise FormatError(
                f"{where}: tensor {tensor.name!r} of the shape {list(shape)} cannot be a piece"
            )
        total = sum(cut.blocks)
        if total != ranks * shape[cut.dim]:
            raise FormatError(
                f"{where}: the pieces of tensor {tensor.name!r} are {ranks} times "
                f"{shape[cut.dim]}, its blocks {_text(cut.blocks[:8])} make {total}"
            )
        why = cut.why_not(tensor.dtype, shape, ranks)
        if why:
            raise FormatError(f"{where}: tensor {tensor.name!r} cannot be cut so: {why[:200]}")


def positions_of(tensors: Sequence[TensorEntry], rank: int | None) -> dict[str, int]:
    """Names, and which tensor each means for a rank: those of no rank, and its own."""
    return {
        name: position
        for position, entry in enumerate(tensors)
        if entry.rank is None or entry.rank == rank
        for name in entry.names
    }


def piece_of(entry: TensorEntry, ranks: int) -> Piece | None:
    """Where a stored piece is in the whole; None if it is all of it, or not one range."""
    cut, rank = entry.cut, entry.rank
    if cut is None or rank is None or ranks == 1 or len(cut.blocks) != 1:
        return None
    ((start, stop),) = cut.ranges(ranks, rank)
    shape = list(entry.shape)
    shape[cut.dim] *= ranks
    return Piece(cut.dim, start, stop, tuple(shape))
