"""The page cache's state: established, and checked, never assumed."""

from __future__ import annotations

import errno
import os
import random
import time
from typing import TYPE_CHECKING

from ckptfmt import page_cache
from ckptfmt.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterable

STATES = ("cold", "warm", "half")

#: Of fewer bytes, some pages more or less make a share that says nothing.
CHECKED_NBYTES = 64 << 20
#: Pages that were just in use stay for a moment, whoever wants to drop them.
MOMENT_S, AGAIN_S = 1.0, 0.02
#: What ``half`` has in the cache, and has not.
WINDOW_NBYTES = 4 << 20
#: Where Linux counts what it has told a virtual machine's host that it does not need.
REPORTED = "/sys/module/page_reporting/parameters/reported_kib"
#: The kernel reports free memory two seconds after some has become free.
QUIET_S, PATIENCE_S = 2.2, 15.0


def cached_share(files: Iterable[str | os.PathLike[str]]) -> float | None:
    """Share of the files' bytes that the page cache has; None where it may not be asked."""
    cached = nbytes = 0
    for file in files:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            ask, _ = page_cache.query(fd)
            if ask is None:
                return None
            cached += ask(fd, 0, size) if size else 0
            nbytes += size
        finally:
            os.close(fd)
    return cached / nbytes if nbytes else 0.0


def establish(
    files: Iterable[str | os.PathLike[str]], state: str, *, checked_nbytes: int = CHECKED_NBYTES
) -> float | None:
    """Bring files to a state: ``cold``, ``warm``, or ``half``: every second 4 MiB cached.

    Parameters
    ----------
    files : iterable of path-like
        All of what is to be read.
    state : str
        Which.
    checked_nbytes : int
        Files that have no more than this together are taken as they come.

    Returns
    -------
    float or None
        The share that is cached now; None where the page cache may not be asked.

    Raises
    ------
    FileError
        The state cannot be had: cold with over 1 % cached, warm with under 99 %.
    """
    files = list(files)
    for file in files:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if state == "warm":
                _read_all(fd)
                continue
            page_cache.drop(fd)
            if state == "half":
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead into the gaps
                count = os.fstat(fd).st_size // WINDOW_NBYTES + 1
                for number in sorted(random.Random(len(files)).sample(range(count), count // 2)):
                    os.pread(fd, WINDOW_NBYTES, number * WINDOW_NBYTES)
        finally:
            os.close(fd)
    share = cached_share(files)
    until = time.monotonic() + MOMENT_S
    while state == "cold" and share is not None and share > 0.01 and time.monotonic() < until:
        time.sleep(AGAIN_S)
        for file in files:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                page_cache.drop(fd)
            finally:
                os.close(fd)
        share = cached_share(files)
    if share is None or sum(os.path.getsize(file) for file in files) <= checked_nbytes:
        return share
    if {"cold": share > 0.01, "warm": share < 0.99, "half": not 0.3 < share < 0.7}[state]:
        why = {
            "cold": "somebody has them mapped or is writing them, or the file system is memory",
            "warm": "there is not memory enough to keep them",
            "half": "somebody else reads them",
        }[state]
        raise FileError(
            errno.EBUSY, f"cannot be had {state}: {share:.0%} of the files is in the page cache",
            os.fspath(files[0]), hint=why,
        )  # fmt: skip
    return share


def wait_for_host() -> float:
    """Wait until a virtual machine's host has been told of all memory that is free by now.

    What is freed after this is reported two seconds later at the earliest, so a load that begins at
    once finds it; in the midst of reporting, one load would and another would not, by chance.

    Returns
    -------
    float
        Seconds waited; 0 where nothing is reported.
    """
    began = quiet_since = time.monotonic()
    try:
        last = _reported()
        while time.monotonic() < min(quiet_since + QUIET_S, began + PATIENCE_S):
            time.sleep(0.1)
            now = _reported()
            if now != last:
                last, quiet_since = now, time.monotonic()
    except OSError:
        return 0.0
    return time.monotonic() - began


def _reported() -> str:
    with open(REPORTED, encoding="ascii") as stream:
        return stream.read()


def _read_all(fd: int) -> None:
    """Read a file into the cache, unless it is there."""
    nbytes = os.fstat(fd).st_size
    ask, _ = page_cache.query(fd)
    if nbytes and ask is not None and ask(fd, 0, nbytes) == nbytes:
        return
    os.lseek(fd, 0, os.SEEK_SET)
    buffer = bytearray(1 << 20)
    while os.readv(fd, [buffer]):
        pass
