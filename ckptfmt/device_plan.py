"""The memory of one device: its allocations, which tensor goes where, the copies that fill it.

Pure; arrays, so that 100,000 tensors are quick. A plan's reads mirror the files, so that one op
brings many tensors; the copies of an op take each of them to its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt.layout import MIN_ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ckptfmt.index import Index
    from ckptfmt.read_plan import ReadPlan

#: Tensors of so many bytes have an allocation each, so that replacing one frees its memory.
OWN_NBYTES = 1 << 20
#: Smaller ones share; a tensor that lives on keeps no more than this.
ARENA_NBYTES = 32 << 20
#: Where tensors in an arena begin, as they do in torch's own allocations.
STEP = 512

#: As ``struct Copy`` in ``_native/run.pxd``: from the op's first byte on, to an address, where so
#: many bytes may be written.
COPY_DTYPE = np.dtype([("start", "<i8"), ("nbytes", "<i8"), ("address", "<i8"), ("room", "<i8")])


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """Allocations, and the place of each tensor.

    Attributes
    ----------
    allocations : list of int
        Bytes of each, in file order.
    positions : int64 array, shape (n,)
        The tensors, ascending.
    allocation : int64 array, shape (n,)
        Which one each tensor is in; -1 if it has no bytes.
    offset : int64 array, shape (n,)
        Where in it.
    """

    allocations: list[int]
    positions: npt.NDArray[np.int64]
    allocation: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]

    @property
    def place(self) -> dict[int, tuple[int, int]]:
        """Position to allocation and offset, for all tensors that have bytes; made at each call."""
        rows = zip(
            self.positions.tolist(), self.allocation.tolist(), self.offset.tolist(), strict=True
        )
        return {position: (number, at) for position, number, at in rows if number >= 0}


def allocate_plan(index: Index, positions: Sequence[int]) -> DevicePlan:
    """Decide the allocations of one device.

    Parameters
    ----------
    index : Index
        Of the checkpoint.
    positions : sequence of int
        The tensors that go there.

    Returns
    -------
    DevicePlan
        Tensors from `OWN_NBYTES` on have an allocation each, the others share arenas of at most
        `ARENA_NBYTES`. Where the checkpoint is aligned to 4096 bytes, so are they in the arena:
        neighbours in the file are neighbours there, and one copy brings many.
    """
    chosen = np.unique(np.asarray(positions, np.int64))
    entries = index.tensors
    nbytes = np.array([entries[p].nbytes for p in chosen.tolist()], np.int64)
    step = MIN_ALIGNMENT if index.alignment == MIN_ALIGNMENT else STEP
    offset = np.zeros(len(chosen), np.int64)
    head = np.arange(len(chosen))  # the first tensor of the allocation that each is in
    room = nbytes.copy()  # of the allocation that begins with this tensor

    small = np.flatnonzero((nbytes > 0) & (nbytes < OWN_NBYTES))
    padded = -(-nbytes[small] // step) * step
    end = np.cumsum(padded)
    first = 0
    while first < len(small):
        start = int(end[first] - padded[first])
        past = int(np.searchsorted(end, start + ARENA_NBYTES, side="right"))
        members = small[first:past]
        offset[members] = end[first:past] - padded[first:past] - start
        head[members] = members[0]
        room[members[0]] = end[past - 1] - start
        first = past

    begins = (head == np.arange(len(chosen))) & (nbytes > 0)
    allocation = np.where(nbytes > 0, (np.cumsum(begins) - 1)[head], -1)
    return DevicePlan(room[begins].tolist(), chosen, allocation, offset)


def plan_copies(
    plan: ReadPlan,
    at: npt.NDArray[np.int64],
    nbytes: npt.NDArray[np.int64],
    addresses: npt.NDArray[np.int64],
    room: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Decide the copies that take each op's bytes to a device.

    Parameters
    ----------
    plan : ReadPlan
        As it will be read, ``cut`` included.
    at, nbytes : int64 arrays, shape (n,)
        Where each wanted extent is in what is read, by the plan's addresses (``Reach.at``); its
        length. Ascending, and none overlaps another.
    addresses : int64 array, shape (n,)
        Where each of them goes on the device.
    room : int64 array, shape (n,)
        Bytes from there to the end of the allocation. No copy goes from one allocation into
        another, even if they lie next to each other.

    Returns
    -------
    copies : array of COPY_DTYPE
        Each byte of a tensor is in one of them; the padding between two tensors may be.
    begins : int64 array
        Op ``i`` has ``copies[begins[i] : begins[i + 1]]``.
    """
    low = plan.ops["address"]
    high = low + plan.ops["nbytes"]
    end = at + nbytes
    met = np.searchsorted(end, low, side="right")  # the first extent that each op has bytes of
    counts = np.searchsorted(at, high, side="left") - met
    op = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(op)) + np.repeat(met - (np.cumsum(counts) - counts), counts)
    first_byte = np.maximum(at[row], low[op])
    start = first_byte - low[op]
    stop = np.minimum(end[row], high[op]) - low[op]
    address = addresses[row] + first_byte - at[row]
    limit = addresses[row] + room[row]  # the allocation's end, which tells it from others

    begin = np.ones(len(op), bool)
    begin[1:] = (
        (op[1:] != op[:-1])
        | (np.diff(address) != np.diff(start))
        | (limit[1:] != limit[:-1])
    )  # fmt: skip
    first = np.flatnonzero(begin)
    last = np.append(first[1:], len(op))[: len(first)] - 1
    copies = np.zeros(len(first), COPY_DTYPE)
    copies["start"] = start[first]
    copies["nbytes"] = stop[last] - start[first]
    copies["address"] = address[first]
    copies["room"] = limit[first] - address[first]
    return copies, np.searchsorted(op[first], np.arange(len(counts) + 1)).astype(np.int64)
