"""What the page cache has of a file; and leaving it as it was found.

What was not cached before a conversion, or a load on a machine whose memory is the accelerator's
too, is not after it: a cache full of a checkpoint that was only passed through is memory that the
model then lacks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Given a descriptor, an offset and a length: bytes that are cached.
    Query = Callable[[int, int, int], int]

#: Opening a file and reading its header may have brought in this much.
HEADER_NBYTES = 2 << 20


def is_cold(fd: int) -> bool:
    """Whether little enough of a file is cached that reading it should leave nothing behind."""
    nbytes = os.fstat(fd).st_size
    ask, _ = query(fd)
    if ask is None or nbytes == 0:
        return False  # it cannot be told here: what may be somebody's cache stays
    return ask(fd, 0, nbytes) <= max(nbytes // 10, HEADER_NBYTES)


def drop(fd: int, offset: int = 0, nbytes: int = 0) -> None:
    """Drop clean pages of a range; 0 bytes mean to the end. Advice only, so nothing can fail."""
    os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


def query(fd: int) -> tuple[Query | None, str]:
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
