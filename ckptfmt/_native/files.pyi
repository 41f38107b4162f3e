"""System calls on files that Python does not have, or not in every version we run on.

All raise ``OSError`` with its errno; the caller knows the file's name and says more.
"""

from os import PathLike
from typing import TypeAlias

from typing_extensions import Buffer

_Path: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]

def fallocate(fd: int, nbytes: int) -> None:
    """Reserve the first `nbytes` bytes of a file, and make it at least that long.

    Plain ``fallocate(2)``: where the filesystem cannot do it, nothing is written in its stead.

    Parameters
    ----------
    fd : int
        A file open for writing.
    nbytes : int
        At least 1.

    Raises
    ------
    OSError
        ENOSPC: there is no room. EOPNOTSUPP: the filesystem does not know how.
    """

def pread_into(fd: int, buffer: Buffer, offset: int) -> int:
    """Read into a buffer, again if a signal came first.

    ``os.preadv`` would be ``preadv2(2)``, which older containers forbid.

    Parameters
    ----------
    fd : int
        The file.
    buffer : buffer
        Writable and contiguous; filled from its start.
    offset : int
        Where in the file.

    Returns
    -------
    int
        Bytes read: perhaps fewer than fit, 0 at the end of the file.

    Raises
    ------
    OSError
        ``pread(2)`` failed.
    """

def rename_exchange(old: _Path, new: _Path) -> None:
    """Exchange two names at once; both must exist.

    Parameters
    ----------
    old, new : path-like
        On the same filesystem.

    Raises
    ------
    OSError
        ENOENT: one is missing. EINVAL or ENOSYS: the filesystem or the kernel does not know how.
    """

def dio_alignment(fd: int) -> tuple[int, int] | None:
    """What direct reads of an open file must be aligned to.

    Parameters
    ----------
    fd : int
        The file.

    Returns
    -------
    tuple of int, or None
        Bytes, for addresses and for offsets; (0, 0) if direct reads are refused. None where the
        kernel (before 6.1) or the filesystem does not say.

    Raises
    ------
    OSError
        ``statx(2)`` failed.
    """

def cached_nbytes(fd: int, offset: int, nbytes: int) -> int:
    """How much of a range of a file is in the page cache, in whole pages, at most `nbytes`.

    Parameters
    ----------
    fd : int
        The file.
    offset, nbytes : int
        The range, in bytes.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    OSError
        ENOSYS: the kernel is older than 6.5. EPERM or EOPNOTSUPP: it will not say.
    """

def resident_nbytes(fd: int, offset: int, nbytes: int) -> int:
    """The same by ``mincore(2)``; only true for a file that the caller owns or may write.

    Parameters
    ----------
    fd : int
        The file.
    offset, nbytes : int
        The range, in bytes; at least one byte long.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    OSError
        The file cannot be mapped.
    """
