"""Direct or buffered, read by read: what the page cache has comes from it, the rest from disk.

Cached bytes come several times faster through the cache; cold ones cost far less processor time
past it (docs/design.md, reading; scripts/bench_load.py measures both).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition

    Query = Callable[[int, int, int], int]

#: Where the page cache may not be asked, so many single bytes are tried.
SAMPLES = 16


def choose(
    partition: Partition, ops: npt.NDArray[np.void], options: LoadOptions
) -> tuple[npt.NDArray[np.bool_], str]:
    """Decide for each op of one partition whether to read it directly.

    Parameters
    ----------
    partition : Partition
        Where the ops read.
    ops : array of OP_DTYPE
        Its ops only.
    options : LoadOptions
        ``reads`` forces one or the other.

    Returns
    -------
    direct : bool array
        One element for each op.
    reason : str
        What decided it, for the statistics.
    """
    if options.reads == "buffered":
        return np.zeros(len(ops), bool), "asked for"
    if partition.direct_fd < 0:
        return np.zeros(len(ops), bool), partition.no_direct_reason
    if options.reads == "direct":
        return np.ones(len(ops), bool), "asked for"
    query, how = _page_cache_query(partition.fd)
    if query is None:
        return _sample(partition, ops)
    cached = np.array(
        [query(partition.fd, int(op["offset"]), int(op["nbytes"])) for op in ops], np.int64
    )
    # A window with a gap is read directly: filling it through the cache costs more than it saves.
    direct = cached < ops["nbytes"]
    return direct, f"{int((~direct).sum())} of {len(ops)} windows cached ({how})"


def _page_cache_query(fd: int) -> tuple[Query | None, str]:
    """The call that may be believed: mincore calls every page of another's file resident."""
    try:
        _core.cached_nbytes(fd, 0, 1)
    except OSError:
        pass
    else:
        return _core.cached_nbytes, "cachestat"
    if _may_ask_mincore(fd):
        try:
            _core.resident_nbytes(fd, 0, 1)
        except OSError:  # forbidden, or a file system whose files cannot be mapped
            pass
        else:
            return _core.resident_nbytes, "mincore"
    return None, ""


def _may_ask_mincore(fd: int) -> bool:
    """As the kernel decides: the owner, or who may write the file."""
    if os.fstat(fd).st_uid == os.geteuid():
        return True
    try:
        return os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)
    except OSError:
        return False


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
