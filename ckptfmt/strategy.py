"""Direct or buffered, read by read: what the page cache has comes from it, the rest from disk.

Cached bytes come several times faster through the cache; cold ones cost far less processor time
past it (docs/design.md, reading; scripts/bench_load.py measures both).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import page_cache

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckptfmt.options import LoadOptions
    from ckptfmt.page_cache import Query
    from ckptfmt.partitions import Partition

#: Where the page cache may not be asked, so many single bytes are tried.
SAMPLES = 16
#: Asking what is cached of so many bytes takes about a millisecond; from there on, samples are
#: asked for first: one window in so many ops.
SAMPLED_NBYTES = 1 << 30
SAMPLED_OPS, WINDOW_NBYTES = 4, 64 << 10
#: Pieces that an op is cut into where the page cache has only some of it, at least.
PIECE_NBYTES = 512 << 10


def choose(
    partition: Partition,
    ops: npt.NDArray[np.void],
    blocks: npt.NDArray[np.void],
    options: LoadOptions,
) -> tuple[npt.NDArray[np.bool_], str]:
    """Decide for each block of one partition's ops whether to read it directly.

    Parameters
    ----------
    partition : Partition
        Where the ops read.
    ops : array of OP_DTYPE
        Its ops only.
    blocks : array of BLOCK_DTYPE
        Of the whole plan.
    options : LoadOptions
        ``reads`` forces one or the other.

    Returns
    -------
    direct : bool array
        One element for each block of these ops. Mostly all of an op's are equal; where the page
        cache has a part of it, it is to be cut.
    reason : str
        What decided it, for the statistics.
    """
    counts = ops["n_blocks"]
    if options.reads == "buffered":
        return np.zeros(counts.sum(), bool), "asked for"
    if partition.direct_fd < 0:
        return np.zeros(counts.sum(), bool), partition.no_direct_reason
    if options.reads == "direct":
        return np.ones(counts.sum(), bool), "asked for"
    query, how = page_cache.query(partition.fd)
    if query is None:
        direct, reason = _sample(partition, ops)
        return np.repeat(direct, counts), reason
    cached, note = _cached(partition.fd, ops, query)
    # What is partly cached is cut, but into pieces that are still worth a read of their own. A
    # piece with a gap is read directly: filling it through the cache costs more than it saves.
    direct = np.repeat(cached < ops["nbytes"], counts)
    first = np.cumsum(counts) - counts
    partly = np.flatnonzero((cached > 0) & (cached < ops["nbytes"])).tolist()
    for i in partly:
        mine = blocks[int(ops[i]["first_block"]) :][: int(counts[i])]
        direct[int(first[i]) :][: int(counts[i])] = _uncached(partition.fd, ops[i], mine, query)
    whole = int((cached == ops["nbytes"]).sum())
    reason = f"{whole} of {len(ops)} windows cached, {len(partly)} in part ({how}{note})"
    return direct, reason


def _cached(fd: int, ops: npt.NDArray[np.void], query: Query) -> tuple[npt.NDArray[np.int64], str]:
    """How much of each op the page cache has; a note if not all of it was asked for.

    Asking walks every page. Of very many bytes a small window is asked for in some ops first: if
    all those are cached, so is taken to be what is between them. What is missing there after all is
    read through the cache.
    """
    offsets, sizes = ops["offset"].tolist(), ops["nbytes"].tolist()
    if sum(sizes) >= SAMPLED_NBYTES:
        for group in range(0, len(ops), SAMPLED_OPS):
            # Another op of each group and another window of it: a pattern is not met by chance.
            i = min(group + (group * 2654435761 >> 20) % SAMPLED_OPS, len(ops) - 1)
            window = min(WINDOW_NBYTES, sizes[i])
            start = group * 5 * WINDOW_NBYTES % (sizes[i] - window + 1) // 4096 * 4096
            if query(fd, offsets[i] + start, window) < window:
                break
        else:
            return ops["nbytes"].astype(np.int64), " by samples"
    found = [query(fd, offset, nbytes) for offset, nbytes in zip(offsets, sizes, strict=True)]
    return np.array(found, np.int64), ""


def _uncached(
    fd: int, op: np.void, blocks: npt.NDArray[np.void], query: Query
) -> npt.NDArray[np.bool_]:
    """For each block of an op whether the page cache lacks some of the piece that it is in."""
    starts = blocks["start"].tolist()
    ends = [*starts[1:], int(op["nbytes"])]
    found = np.ones(len(starts), bool)
    begun = 0
    for i, end in enumerate(ends):
        nbytes = end - starts[begun]
        if nbytes >= PIECE_NBYTES or i + 1 == len(ends):
            found[begun : i + 1] = query(fd, int(op["offset"]) + starts[begun], nbytes) < nbytes
            begun = i + 1
    return found


def _sample(
    partition: Partition, ops: npt.NDArray[np.void]
) -> tuple[npt.NDArray[np.bool_], str]:
    """Ask for single bytes that must not wait; a few only, for it may start some read-ahead."""
    chosen = ops[:: max(1, len(ops) // SAMPLES)]
    hits = 0
    for op in chosen:
        try:
            hits += os.preadv(partition.fd, [bytearray(1)], int(op["offset"]), os.RWF_NOWAIT)
        except OSError:  # EAGAIN: not cached; EOPNOTSUPP: cannot be told here
            break
    cached = hits == len(chosen)
    answer = "cached" if cached else "not cached"
    return np.full(len(ops), not cached), f"{answer}, by sampling (the page cache may not be asked)"
