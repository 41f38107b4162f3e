"""Where the bytes of tensors lie, as columns, and what has to be read for some of them.

Pure; arrays, so that 100,000 tensors are quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt.layout import BLOCK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ckptfmt.index import Index

#: Less than a page is not given back.
PAGE_NBYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Extents as columns, in order of position: the index's own, or what is wanted of them.

    Attributes
    ----------
    tensor, partition, offset, nbytes : int64 arrays
        One element for each extent.
    first_block : int64 array
        Its first block, counted over the whole checkpoint.
    span : int64 array
        Its bytes with padding.
    """

    tensor: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    first_block: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]

    @classmethod
    def of(cls, index: Index) -> Extents:
        """Read the columns off an index."""
        values = [
            value
            for position, tensor in enumerate(index.tensors)
            for e in tensor.extents
            for value in (position, e.partition, e.offset, e.nbytes)
        ]
        table = np.array(values, np.int64).reshape(-1, 4)
        tensor, partition, offset, nbytes = (np.ascontiguousarray(c) for c in table.T)
        blocks = -(-nbytes // BLOCK_NBYTES)
        first_block = np.cumsum(blocks) - blocks
        span = -(-nbytes // index.alignment) * index.alignment
        return cls(tensor, partition, offset, nbytes, first_block, span)

    def of_tensors(self, tensors: Sequence[int]) -> npt.NDArray[np.int64]:
        """Positions of the extents of some tensors, in order."""
        wanted = np.zeros(int(self.tensor[-1]) + 1 if len(self.tensor) else 0, bool)
        chosen = np.asarray(tensors, np.int64)
        wanted[chosen[chosen < len(wanted)]] = True  # tensors past the last extent are empty
        return np.flatnonzero(wanted[self.tensor])

    def reach(self, mine: npt.NDArray[np.int64]) -> Reach:
        """What is read for some of them, and where in it they are: here nothing else.

        Extents that are no whole blocks have classes of their own.
        """
        addresses = compact_addresses(self, mine)
        nbytes = int(addresses[-1] + self.span[mine[-1]]) if len(mine) else 0
        return Reach(self, mine, addresses, nbytes, addresses, self.span[mine])

    def cut(self, stored: npt.NDArray[np.int64], ranges: npt.NDArray[np.int64]) -> Extents:
        """Those of some tensors, one after the other, cut to a range of bytes of each.

        Parameters
        ----------
        stored : int64 array, shape (n,)
            The tensors; the new ones are numbered from 0 on.
        ranges : int64 array, shape (n, 2)
            First byte, and the one behind the last; -1 for all of it.
        """
        first = np.searchsorted(self.tensor, stored)
        counts = np.searchsorted(self.tensor, stored, side="right") - first
        tensor = np.repeat(np.arange(len(stored)), counts)
        at = np.cumsum(counts) - counts
        row = np.arange(len(tensor)) + np.repeat(first - at, counts)
        nbytes = self.nbytes[row]
        total = np.cumsum(nbytes) - nbytes
        begin = total - np.repeat(total[at[counts > 0]], counts[counts > 0])
        low, high = ranges[tensor].T
        start = np.maximum(low - begin, 0)
        stop = np.where(high < 0, nbytes, np.minimum(high - begin, nbytes))
        kept = np.flatnonzero(start < stop)
        return self._part(tensor[kept], row[kept], start[kept], stop[kept])

    def _part(
        self,
        tensor: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        stop: npt.NDArray[np.int64],
    ) -> Extents:
        """Bytes `start` to `stop` of the extents `row`, now of the tensors `tensor`."""
        whole = Extents(tensor, *(getattr(self, f.name)[row] for f in fields(Extents)[1:]))
        span = np.where(stop == whole.nbytes, whole.span, stop) - start
        return PartialExtents(
            tensor, whole.partition, whole.offset + start, stop - start,
            whole.first_block + start // BLOCK_NBYTES, span, whole,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """What is read for some extents, and where in it they are. Addresses count from 0 on.

    Attributes
    ----------
    extents : Extents
        What is read.
    chosen : int64 array, shape (m,)
        Which of them.
    addresses : int64 array, shape (m,)
        Where the first byte of each goes.
    nbytes : int
        Of the memory for all of it.
    at : int64 array, shape (n,)
        Where the first byte of each wanted extent will be.
    span : int64 array, shape (n,)
        Bytes from there on that are its own; the padding behind it, where that is.
    spare : int64 array, shape (k, 2)
        Ranges, address and length, that are read only to be verified.
    """

    extents: Extents
    chosen: npt.NDArray[np.int64]
    addresses: npt.NDArray[np.int64]
    nbytes: int
    at: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]
    spare: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class PartialExtents(Extents):
    """Extents of which some are not wanted whole: ``offset`` and ``nbytes`` say what is.

    Attributes
    ----------
    whole : Extents
        As they are stored, one for one.
    """

    whole: Extents

    def reach(self, mine: npt.NDArray[np.int64]) -> Reach:
        """Whole blocks are read, because only those can be verified."""
        offset, nbytes = self.whole.offset[mine], self.whole.nbytes[mine]
        head = self.offset[mine] - offset
        lead = head % BLOCK_NBYTES
        before = head - lead
        blocks = -(-(lead + self.nbytes[mine]) // BLOCK_NBYTES)
        read_nbytes = np.minimum(blocks * BLOCK_NBYTES, nbytes - before)
        to_end = before + read_nbytes == nbytes
        read = Extents(
            tensor=self.tensor[mine],
            partition=self.partition[mine],
            offset=offset + before,
            nbytes=read_nbytes,
            first_block=self.first_block[mine],
            span=np.where(to_end, self.whole.span[mine] - before, read_nbytes),
        )
        addresses = compact_addresses(read, chosen := np.arange(len(mine)))
        at = addresses + lead
        end, total = at + self.span[mine], addresses + read.span
        spare = np.concatenate([
            np.stack([addresses, lead], 1), np.stack([end, total - end], 1),
        ]).reshape(-1, 2)  # fmt: skip
        return Reach(
            read, chosen, addresses, int(read.span.sum()), at, self.span[mine],
            spare=spare[spare[:, 1] >= PAGE_NBYTES],
        )  # fmt: skip


def compact_addresses(extents: Extents, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Addresses from 0 on that put the chosen extents next to each other, padding kept."""
    span = extents.span[chosen]
    return np.cumsum(span) - span
