"""Bytes of a tensor that is put together of parts of others: which ones, and getting at them.

Pure but for what it is given to read with.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    #: Fills memory with the bytes of a tensor, by its position, from a byte on.
    Read = Callable[[int, int, memoryview], None]
    Range = tuple[int, int]

#: Rows are read whole up to so many bytes, where only short runs of them are wanted.
STRIP_NBYTES = 4 << 20
#: A run from here on is worth a read of its own.
LONG_NBYTES = 256 << 10


class Run(NamedTuple):
    """Bytes of each row that stand next to each other in a row of one origin.

    Attributes
    ----------
    origin : int
        Position of the tensor they come from.
    row_nbytes : int
        Of that tensor's rows.
    offset, nbytes : int
        Where in the row, and how many.
    """

    origin: int
    row_nbytes: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Gather:
    """A tensor as rows of bytes, each of the same runs of others."""

    rows: int
    runs: tuple[Run, ...]

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row of the result."""
        return sum(run.nbytes for run in self.runs)

    def read_into(self, read: Read, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the result on."""
        row, done = self.row_nbytes, 0
        at_once = self._rows_at_once()
        while done < len(buffer):
            number, within = divmod(start + done, row)
            if at_once:
                wanted = -(-(within + len(buffer) - done) // row)
                count = min(at_once, wanted)
                strip = self._strip(read, number, count)
                nbytes = min(len(strip) - within, len(buffer) - done)
                buffer[done : done + nbytes] = strip[within : within + nbytes]
                done += nbytes
            else:
                done += self._runs(read, number, within, buffer[done:])

    def _rows_at_once(self) -> int:
        """How many rows are read whole at a time; 0 where each run is read alone."""
        origins = {run.origin: run.row_nbytes for run in self.runs}
        whole = sum(origins.values())
        short = min(run.nbytes for run in self.runs) < LONG_NBYTES
        return STRIP_NBYTES // whole if self.rows > 1 and short else 0

    def _strip(self, read: Read, number: int, count: int) -> memoryview:
        """Some rows of the result."""
        found = np.empty((count, self.row_nbytes), np.uint8)
        rows = {}
        for run in self.runs:
            if run.origin not in rows:
                whole = np.empty(count * run.row_nbytes, np.uint8)
                read(run.origin, number * run.row_nbytes, whole.data)
                rows[run.origin] = whole.reshape(count, run.row_nbytes)
        column = 0
        for run in self.runs:
            part = rows[run.origin][:, run.offset : run.offset + run.nbytes]
            found[:, column : column + run.nbytes] = part
            column += run.nbytes
        return found.reshape(-1).data

    def _runs(self, read: Read, number: int, within: int, buffer: memoryview) -> int:
        """The rest of one row from byte `within` on, run by run; how much of it there was."""
        begin = done = 0
        for run in self.runs:
            skip = within + done - begin
            if skip < run.nbytes:
                nbytes = min(run.nbytes - skip, len(buffer) - done)
                offset = number * run.row_nbytes + run.offset + skip
                read(run.origin, offset, buffer[done : done + nbytes])
                done += nbytes
                if done == len(buffer):
                    break
            begin += run.nbytes
        return done


def itself(position: int, nbytes: int) -> Gather:
    """A tensor that is another one as it is."""
    return Gather(1, (Run(position, nbytes, 0, nbytes),))


def gather(
    wanted: Iterable[Range],
    have: Sequence[tuple[int, Sequence[Range]]],
    rows: int,
    unit_bits: int,
) -> Gather:
    """What a tensor takes of others that were cut along the same dimension.

    Parameters
    ----------
    wanted : iterable of (start, stop)
        Ranges of the whole along that dimension, in the order wanted.
    have : sequence of (position, ranges)
        For each origin the ranges it has, in its order. Together they have all that is wanted.
    rows : int
        The product of the dimensions before.
    unit_bits : int
        Bits of one step along the dimension.
    """
    places = []  # start, stop, origin, where it stands there, what the origin has
    for origin, ranges in have:
        total, at = sum(stop - start for start, stop in ranges), 0
        for start, stop in ranges:
            places.append((start, stop, origin, at, total))
            at += stop - start
    places.sort()
    starts = [place[0] for place in places]
    runs: list[Run] = []
    for low, high in wanted:
        for i in range(bisect_right(starts, low) - 1, bisect_left(starts, high)):
            start, stop, origin, at, total = places[i]
            first, last = max(low, start), min(high, stop)
            run = Run(
                origin, total * unit_bits // 8, (at + first - start) * unit_bits // 8,
                (last - first) * unit_bits // 8,
            )  # fmt: skip
            before = runs[-1] if runs else None
            if before and (before.origin, before.offset + before.nbytes) == (origin, run.offset):
                runs[-1] = before._replace(nbytes=before.nbytes + run.nbytes)
            else:
                runs.append(run)
    return Gather(rows, tuple(runs))
