"""A file that is read both ways: through the page cache, and past it where the system permits."""

from __future__ import annotations

import os
import threading

from ckptfmt import _core
from ckptfmt.errors import FormatError
from ckptfmt.layout import align_up

#: What direct reads and writes are rounded to, in the file and in memory.
SECTOR = 4096


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on, through the page cache; fewer bytes only at the file's end."""
    filled = 0
    while filled < len(view):
        got = _core.pread_into(fd, view[filled:], offset + filled)
        if got == 0:
            break
        filled += got
    return filled


def open_direct(file: str, fd: int, dir_fd: int | None = None) -> tuple[int, str]:
    """Open a file for direct reads, which are tried, not guessed from the file system.

    Parameters
    ----------
    file : str
        Its path, or its name below `dir_fd`.
    fd : int
        The same file, open.

    Returns
    -------
    fd : int
        The caller's to close; -1 if there are no direct reads.
    reason : str
        Why not; empty if there are.

    Raises
    ------
    FormatError
        Another file has taken the name meanwhile.
    """
    try:
        alignment = _core.dio_alignment(fd)
    except OSError:
        alignment = None  # a kernel or container without statx: the probing read tells
    if alignment is not None:
        if alignment[1] == 0:
            return -1, "the file system has no direct reads"
        if max(alignment) > SECTOR:
            return -1, f"direct reads here need an alignment of {max(alignment)}"
    try:
        direct_fd = os.open(file, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        return -1, f"O_DIRECT refused: {error.strerror}"
    try:
        if not os.path.samestat(os.fstat(direct_fd), os.fstat(fd)):
            raise FormatError(f"{file}: was replaced while it was being opened", hint="try again")
        _core.pread_into(direct_fd, _core.Memory(SECTOR).region(0, SECTOR, SECTOR), 0)
    except OSError as error:
        os.close(direct_fd)
        return -1, f"a direct read was refused: {error.strerror}"
    except BaseException:
        os.close(direct_fd)
        raise
    return direct_fd, ""


class UnalignedReads:
    """Direct reads of any range: whole sectors into memory of the thread's own, copied from there.

    Worth its copy for a file that is not cached: the kernel need not find, fill and drop a page of
    its own for each page read.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def read_into(self, fd: int, direct_fd: int, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; fewer bytes only at the file's end."""
        start = offset - offset % SECTOR
        head = offset - start
        room = align_up(head + len(view), SECTOR)
        scratch = self._scratch(room)
        filled = 0
        while filled < head + len(view) and filled % SECTOR == 0:
            got = _core.pread_into(direct_fd, scratch[filled:room], start + filled)
            if got == 0:
                break
            filled += got
        done = max(0, min(filled - head, len(view)))
        view[:done] = scratch[head : head + done]
        # The file's end, or a short read that stopped within a sector: the page cache can tell.
        return done + read_into(fd, view[done:], offset + done) if done < len(view) else done

    def _scratch(self, nbytes: int) -> memoryview:
        found: memoryview | None = getattr(self._of_thread, "memory", None)
        if found is None or len(found) < nbytes:
            found = memoryview(_core.Memory(nbytes).region(0, nbytes, nbytes))
            self._of_thread.memory = found
        return found
