"""The page cache's state: established, and checked, never assumed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from ckptfmt import _core


def cached_share(files: Iterable[Path]) -> float:
    """Share of the files' bytes that is in the page cache."""
    cached = nbytes = 0
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            cached += _core.cached_nbytes(fd, 0, size) if size else 0
            nbytes += size
        finally:
            os.close(fd)
    return cached / nbytes if nbytes else 0.0


def establish(files: Iterable[Path], state: str) -> float:
    """Bring files to a state: ``cold``, ``warm``, or ``half``: every second 4 MiB cached.

    Returns
    -------
    float
        The share that is cached now.

    Raises
    ------
    RuntimeError
        The state could not be had: cold with over 1 % cached, warm with under 99 %.
    """
    files = list(files)
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            if state == "warm":
                _read_all(fd)
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if state == "half":
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead into the gaps
                window = 4 << 20
                for number in _random_half(os.fstat(fd).st_size // window + 1, seed=len(files)):
                    os.pread(fd, window, number * window)
        finally:
            os.close(fd)
    share = cached_share(files)
    wrong = {"cold": share > 0.01, "warm": share < 0.99, "half": not 0.3 < share < 0.7}[state]
    if wrong and sum(f.stat().st_size for f in files) > 64 << 20:
        raise RuntimeError(f"wanted {state} files, {share:.3f} of them is cached")
    return share


#: Where Linux counts what it has told a virtual machine's host that it does not need.
REPORTED = Path("/sys/module/page_reporting/parameters/reported_kib")
#: The kernel reports free memory two seconds after some has become free.
QUIET_S, PATIENCE_S = 2.2, 15.0


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
        last = REPORTED.read_text()
        while time.monotonic() < min(quiet_since + QUIET_S, began + PATIENCE_S):
            time.sleep(0.1)
            now = REPORTED.read_text()
            if now != last:
                last, quiet_since = now, time.monotonic()
    except OSError:
        return 0.0
    return time.monotonic() - began


def _read_all(fd: int) -> None:
    """Read a file into the cache, unless it is there."""
    nbytes = os.fstat(fd).st_size
    if nbytes and _core.cached_nbytes(fd, 0, nbytes) == nbytes:
        return
    buffer = bytearray(1 << 20)
    while os.readv(fd, [buffer]):
        pass


def _random_half(count: int, seed: int) -> list[int]:
    import random

    return sorted(random.Random(seed).sample(range(count), count // 2))
