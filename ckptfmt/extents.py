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

#: Less than a page is not given back; direct reads are rounded to as much.
PAGE_NBYTES = 4096
#: Padding above this is not read along (alignments of 2 MiB around small tensors).
MAX_GAP = 64 << 10
#: Where tensors begin that cannot be read in place.
STEP = 64


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

    @property
    def taken(self) -> npt.NDArray[np.int64]:
        """Memory that each takes while it is read."""
        return self.span

    @property
    def odd(self) -> set[int]:
        """Tensors that do not begin at a multiple of their element: they cannot be mapped."""
        return set()

    def reach(self, mine: npt.NDArray[np.int64], *, in_place: bool = True) -> Reach:
        """What is read for some of them, and where in it they are: here nothing else.

        Extents that are no whole blocks, or stand at any offset, have classes of their own.

        Parameters
        ----------
        mine : int64 array
            Positions of extents, ascending.
        in_place : bool
            Whether tensors are made where they are read to; else they are copied from there.
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

    @property
    def taken(self) -> npt.NDArray[np.int64]:
        """Memory for the whole blocks."""
        return self.reach(np.arange(len(self.tensor))).extents.span

    def reach(self, mine: npt.NDArray[np.int64], *, in_place: bool = True) -> Reach:
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


@dataclass(frozen=True, slots=True, eq=False)
class MirroredExtents(Extents):
    """Extents of files that are aligned to nothing and have no checksums: plain safetensors.

    Memory mirrors the files, so that a direct read of whole sectors brings many tensors, each where
    it stays. Neighbours share the pages at their ends.

    Attributes
    ----------
    end : int64 array
        Size of the file that each is in.
    step : int64 array
        Bytes of an element. What does not begin at a multiple of it is read through the page cache,
        which copies to anywhere.
    """

    end: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]

    @classmethod
    def of_files(
        cls, index: Index, end: npt.NDArray[np.int64], step: npt.NDArray[np.int64]
    ) -> MirroredExtents:
        """Read the columns off an index; sizes are of its files, elements of its tensors."""
        found = Extents.of(index)
        none = np.zeros_like(found.tensor)
        return cls(
            found.tensor, found.partition, found.offset, found.nbytes, none, found.nbytes,
            end[found.partition], step[found.tensor],
        )  # fmt: skip

    @property
    def odd(self) -> set[int]:
        """Tensors that do not begin at a multiple of their element."""
        return set(self.tensor[self.offset % self.step != 0].tolist())

    def _part(
        self,
        tensor: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        stop: npt.NDArray[np.int64],
    ) -> MirroredExtents:
        """There is nothing to verify: what is wanted is all that counts."""
        nbytes = stop - start
        return MirroredExtents(
            tensor, self.partition[row], self.offset[row] + start, nbytes, self.first_block[row],
            nbytes, self.end[row], self.step[row],
        )  # fmt: skip

    def reach(self, mine: npt.NDArray[np.int64], *, in_place: bool = True) -> Reach:
        """Runs of whole sectors, which may hold many tensors, and those that stand askew."""
        partition, offset, nbytes = self.partition[mine], self.offset[mine], self.nbytes[mine]
        askew = (offset % self.step[mine] != 0) & in_place
        low = offset // PAGE_NBYTES * PAGE_NBYTES
        high = np.minimum(_up(offset + nbytes, PAGE_NBYTES), self.end[mine])

        even, odd = np.flatnonzero(~askew), np.flatnonzero(askew)
        begins = np.ones(len(even), bool)
        begins[1:] = (np.diff(partition[even]) != 0) | (
            low[even][1:] > high[even][:-1] + MAX_GAP
        )
        first = even[begins]
        last = even[np.append(begins[1:], True)[: len(even)]]
        # First the runs, each as in its file; behind them what goes to addresses of its own.
        start = np.concatenate([low[first], offset[odd]])
        size = np.concatenate([high[last] - low[first], nbytes[odd]])
        span = np.concatenate([
            _up(high[last] - low[first], PAGE_NBYTES), _up(nbytes[odd], STEP),
        ])  # fmt: skip
        addresses = np.cumsum(span) - span
        at = np.zeros(len(mine), np.int64)
        run = np.cumsum(begins) - 1
        at[even] = addresses[: len(first)][run] + offset[even] - low[first][run]
        at[odd] = addresses[len(first) :]
        owner = np.concatenate([first, odd])
        order = np.lexsort((start, partition[owner]))  # reads go on in the order of the files
        none = np.zeros(len(owner), np.int64)
        read = Extents(
            self.tensor[mine][owner][order], partition[owner][order], start[order], size[order],
            none, span[order],
        )  # fmt: skip
        return Reach(
            read, np.arange(len(owner)), addresses[order], int(span.sum()), at, nbytes
        )


def _up(nbytes: npt.NDArray[np.int64], step: int) -> npt.NDArray[np.int64]:
    return -(-nbytes // step) * step


def compact_addresses(extents: Extents, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Addresses from 0 on that put the chosen extents next to each other, padding kept."""
    span = extents.span[chosen]
    return np.cumsum(span) - span
