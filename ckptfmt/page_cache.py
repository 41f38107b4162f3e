"""A conversion leaves the page cache as it found it: what was not cached before is not after it.

On a machine whose memory is the accelerator's too, a cache full of a checkpoint that was only
passed through is memory that the model then lacks.
"""

from __future__ import annotations

import os

from ckptfmt import _core

#: Opening a file and reading its header may have brought in this much.
HEADER_NBYTES = 2 << 20


def is_cold(fd: int) -> bool:
    """Whether little enough of a file is cached that reading it should leave nothing behind."""
    nbytes = os.fstat(fd).st_size
    try:
        return nbytes > 0 and _core.cached_nbytes(fd, 0, nbytes) <= max(nbytes // 10, HEADER_NBYTES)
    except OSError:
        return False  # it cannot be told here: what may be somebody's cache stays


def drop(fd: int, offset: int = 0, nbytes: int = 0) -> None:
    """Drop clean pages of a range; 0 bytes mean to the end. Advice only, so nothing can fail."""
    os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)
