"""What to read, in which pieces, to where: the read plan.

Pure; arrays, so that 100,000 tensors are quick. A plan is made of blocks (the units of checksums)
grouped into ops (the units of reading). Blocks that follow each other both in the file and in
memory share an op, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt.extents import MAX_GAP
from ckptfmt.layout import BLOCK_NBYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckptfmt.extents import Extents, Reach

#: As ``struct ReadOp`` and ``struct Block`` in ``_core.pyx``.
OP_DTYPE = np.dtype([
    ("offset", "<i8"), ("address", "<i8"), ("nbytes", "<i8"), ("room", "<i8"),
    ("file", "<i4"), ("n_blocks", "<i4"), ("first_block", "<i8"),
])  # fmt: skip
BLOCK_DTYPE = np.dtype([("start", "<i8"), ("nbytes", "<u4"), ("crc", "<u4")])


@dataclass(frozen=True, slots=True, eq=False)
class ReadPlan:
    """Ops and their blocks, ready for the engine.

    Attributes
    ----------
    ops : array of OP_DTYPE
        In file order. ``address`` is whatever the caller's addresses are relative to.
    blocks : array of BLOCK_DTYPE
        ``ops[i]`` has ``blocks[first_block : first_block + n_blocks]``.
    block_ids : int64 array
        For each block its number in the whole checkpoint.
    """

    ops: npt.NDArray[np.void]
    blocks: npt.NDArray[np.void]
    block_ids: npt.NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes that will be read, padding between tensors included."""
        return int(self.ops["nbytes"].sum())

    @property
    def op_of_block(self) -> npt.NDArray[np.int64]:
        """The op that each block belongs to."""
        return np.repeat(np.arange(len(self.ops)), self.ops["n_blocks"])

    def cut(self, before: npt.NDArray[np.bool_]) -> ReadPlan:
        """The same reads in smaller ops: another one begins before each of these blocks.

        Parameters
        ----------
        before : bool array
            One element for each block.
        """
        old = self.op_of_block
        begins = before | (np.diff(old, prepend=-1) != 0)
        first = np.flatnonzero(begins)
        owner = old[first]
        base = self.blocks["start"][first]
        is_last = np.append(owner[1:] != owner[:-1], True)
        following = np.append(base[1:], 0)
        ops = self.ops[owner]
        ops["offset"] += base
        ops["address"] += base
        for field in ("nbytes", "room"):
            ops[field] = np.where(is_last, ops[field], following) - base
        ops["first_block"] = first
        ops["n_blocks"] = np.diff(first, append=len(self.blocks))
        blocks = self.blocks.copy()
        blocks["start"] -= np.repeat(base, ops["n_blocks"])
        return ReadPlan(ops, blocks, self.block_ids)


def plan_read(
    extents: Extents,
    chosen: npt.NDArray[np.int64],
    addresses: npt.NDArray[np.int64],
    crcs: npt.NDArray[np.uint32],
    *,
    op_nbytes: int,
    room: npt.NDArray[np.int64] | None = None,
    padding: bool = False,
) -> ReadPlan:
    """Plan the reads of the chosen extents. Opens nothing.

    Parameters
    ----------
    extents : Extents
        Of the whole checkpoint.
    chosen : int64 array, shape (n,)
        Positions of extents, ascending.
    addresses : int64 array, shape (n,)
        Where the first byte of each goes.
    crcs : uint32 array
        Of all blocks of the checkpoint.
    op_nbytes : int
        Bytes of an op, give or take a block; a multiple of the block.
    room : int64 array, shape (n,), optional
        Bytes that may be written for each extent; its padded span if not given.
    padding : bool
        Read (and have the engine look at) the padding after the last block of each op too.
    """
    nbytes, offset = extents.nbytes[chosen], extents.offset[chosen]
    room = extents.span[chosen] if room is None else room
    counts = -(-nbytes // BLOCK_NBYTES)
    owner = np.repeat(np.arange(len(chosen)), counts)
    within = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * BLOCK_NBYTES

    block_nbytes = np.minimum(nbytes[owner] - within, BLOCK_NBYTES)
    block_offset = offset[owner] + within
    block_address = addresses[owner] + within
    is_last = within + block_nbytes == nbytes[owner]
    block_end = block_offset + np.where(is_last, room[owner] - within, BLOCK_NBYTES)
    gap = block_end - block_offset - block_nbytes
    file = extents.partition[chosen][owner]

    # A run ends where the next block does not follow directly, in the file or in memory, or where
    # the padding between is worth leaving out.
    new_run = np.ones(len(owner), bool)
    new_run[1:] = (
        (file[1:] != file[:-1])
        | (block_offset[1:] != block_end[:-1])
        | (np.diff(block_address) != np.diff(block_offset))
        | ((gap[:-1] > MAX_GAP) & (not padding))
    )
    run = np.cumsum(new_run) - 1
    run_offset = block_offset[new_run]
    step = (block_offset - run_offset[run]) // op_nbytes if len(run) else run
    new_op = new_run.copy()
    new_op[1:] |= step[1:] != step[:-1]

    first = np.flatnonzero(new_op)
    last = np.append(first[1:], len(owner)) - 1 if len(first) else first
    ops = np.zeros(len(first), OP_DTYPE)
    ops["offset"], ops["address"] = block_offset[first], block_address[first]
    ops["room"] = block_end[last] - block_offset[first]
    end = block_end[last] if padding else block_offset[last] + block_nbytes[last]
    ops["nbytes"] = end - block_offset[first]
    ops["file"], ops["first_block"], ops["n_blocks"] = file[first], first, last - first + 1

    block_ids = extents.first_block[chosen][owner] + within // BLOCK_NBYTES
    blocks = np.zeros(len(owner), BLOCK_DTYPE)
    blocks["start"] = block_offset - block_offset[first][np.cumsum(new_op) - 1]
    blocks["nbytes"] = block_nbytes
    blocks["crc"] = crcs[block_ids]
    return ReadPlan(ops, blocks, block_ids)


def plan_reach(
    reach: Reach, base: int, crcs: npt.NDArray[np.uint32], *, op_nbytes: int
) -> ReadPlan:
    """Plan the reads of all that has to be read, into memory that begins at `base`."""
    return plan_read(
        reach.extents, reach.chosen, reach.addresses + base, crcs, op_nbytes=op_nbytes
    )
