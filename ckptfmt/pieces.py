"""Whole tensors, what they are put together of, and the pieces of them that ranks have. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError
from ckptfmt.gathering import Gather, gather, itself
from ckptfmt.topology import Cut, Piece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.write_plan import TensorSpec


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole tensor, whether it is there as such or in pieces.

    Attributes
    ----------
    spec : TensorSpec
        As it would be stored whole.
    cut : Cut or None
        How it can be cut; None if every rank has all of it.
    origins : tuple of int
        Positions of the tensors that it is put together of: its pieces in order of rank, or itself.
    """

    spec: TensorSpec
    cut: Cut | None
    origins: tuple[int, ...]

    def of_rank(self, ranks: int, rank: int) -> tuple[TensorSpec, Gather]:
        """The piece that one of so many ranks has, and what it is put together of.

        Raises
        ------
        OptionError
            It cannot be cut for so many.
        """
        spec, cut = self.spec, self.cut
        if cut is None:
            return spec, itself(self.origins[0], spec.nbytes)
        why = cut.why_not(spec.dtype, spec.shape, ranks)
        if why:
            raise OptionError(
                f"tensor {spec.names[0]!r} cannot be cut for {ranks} ranks: {why}",
                hint="load it whole, or convert with --tensor-parallel from what it was made of",
            )
        wanted = list(cut.ranges(ranks, rank))
        stored = len(self.origins)
        have = [(o, list(cut.ranges(stored, i))) for i, o in enumerate(self.origins)]
        rows = prod(spec.shape[: cut.dim])
        unit_bits = prod(spec.shape[cut.dim + 1 :]) * DTYPES[spec.dtype].bits
        shape = list(spec.shape)
        shape[cut.dim] = sum(stop - start for start, stop in wanted)
        return replace(spec, shape=tuple(shape)), gather(wanted, have, rows, unit_bits)

    def piece(self, ranks: int, rank: int) -> Piece | None:
        """Where a rank's piece is in the whole; None if it is all of it, or not one range."""
        if self.cut is None or ranks == 1 or len(self.cut.blocks) != 1:
            return None
        ((start, stop),) = self.cut.ranges(ranks, rank)
        return Piece(self.cut.dim, start, stop, self.spec.shape)


def wholes(specs: Sequence[TensorSpec], ranks: int) -> list[Whole]:
    """The whole tensors of a checkpoint whose ranks have pieces, in its order; or of any other.

    Parameters
    ----------
    specs : sequence of TensorSpec
        All tensors: those of no rank, then those of each rank, in the same order.
    ranks : int
        How many there are.
    """
    shared = [i for i, spec in enumerate(specs) if spec.rank is None]
    count = (len(specs) - len(shared)) // ranks
    found = [Whole(specs[i], None, (i,)) for i in shared]
    for i in range(len(shared), len(shared) + count):
        cut = specs[i].cut
        assert cut is not None  # as the index was checked
        shape = list(specs[i].shape)
        shape[cut.dim] *= ranks
        spec = replace(specs[i], shape=tuple(shape), rank=None, cut=None)
        found.append(Whole(spec, cut, tuple(range(i, len(specs), count))))
    return found
