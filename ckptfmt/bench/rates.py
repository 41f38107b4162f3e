"""What the processors, the memory and the link to a device can do, each alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import _core
from ckptfmt.bench.raw_reads import Sample, cpu_seconds
from ckptfmt.dtypes import import_torch
from ckptfmt.loading import allocate
from ckptfmt.pool import HUGE_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.accelerator import Accelerator

#: Enough for the clock, and for more threads than one to come into their stride.
LEAST_SECONDS = 0.05
#: What is in the processor's cache when buffered reads sum it up; what is not, after direct ones.
CACHED_NBYTES, UNCACHED_NBYTES, ALL_NBYTES = 1 << 20, 64 << 20, 1 << 30
#: Of copies over the link.
LINK_SIZES = (1 << 20, 4 << 20, 16 << 20, 64 << 20)
#: So many bytes are copied for one rate, in copies of one size.
LINK_NBYTES = 256 << 20
#: A first copy tells how long that takes; a link that is too slow for it gets fewer.
LINK_SECONDS = 0.3


def _together(work: Callable[[int], int], threads: int) -> Sample:
    """Run `work` in each of some threads until time enough has passed; it returns bytes done."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))  # threads and memory are there
        before, began = cpu_seconds(), time.perf_counter()
        until = began + LEAST_SECONDS

        def repeat(number: int) -> int:
            done = 0
            while True:
                done += work(number)
                if time.perf_counter() >= until:
                    return done

        nbytes = sum(pool.map(repeat, range(threads)))
    seconds = time.perf_counter() - began
    return Sample(
        nbytes=nbytes, seconds=seconds, cpu_seconds=cpu_seconds() - before, threads=threads
    )


class Checksums:
    """Checksums of bytes in the processor's cache, or in memory.

    Parameters
    ----------
    threads : int
        At the same time, each with bytes of its own.
    cached : bool
        Whether the bytes have just come through the processor, as in buffered reads.
    """

    def __init__(self, threads: int, *, cached: bool) -> None:
        self.threads = threads
        nbytes = CACHED_NBYTES if cached else min(UNCACHED_NBYTES, ALL_NBYTES // threads)
        self._buffers = [np.ones(nbytes, np.uint8) for _ in range(threads)]
        self._step = CACHED_NBYTES

    def run(self) -> Sample:
        """Sum up for a while."""
        return _together(self._sum, self.threads)

    def _sum(self, number: int) -> int:
        buffer = self._buffers[number]
        for at in range(0, len(buffer), self._step):
            _core.crc32c(buffer[at : at + self._step].data)
        return len(buffer)


class FreshMemory:
    """Copies of bytes that are in the processor's cache into memory that is new.

    Parameters
    ----------
    nbytes : int
        How much.
    threads : int
        At the same time.
    """

    def __init__(self, nbytes: int, threads: int) -> None:
        self.threads = threads
        step = -(-nbytes // threads // HUGE_NBYTES) * HUGE_NBYTES
        self._step = max(step, HUGE_NBYTES)
        self._source = np.ones(CACHED_NBYTES, np.uint8)
        self._held: _core.Region | None = None

    def run(self) -> Sample:
        """Fill it once."""
        nbytes = self._step * self.threads
        self._held = None
        region = self._held = allocate(nbytes).region(0, nbytes, nbytes)
        target = np.frombuffer(memoryview(region), np.uint8)

        def fill(number: int) -> None:
            mine = target[number * self._step : (number + 1) * self._step]
            for at in range(0, len(mine), CACHED_NBYTES):
                mine[at : at + CACHED_NBYTES] = self._source

        with ThreadPoolExecutor(self.threads) as pool:
            before, began = cpu_seconds(), time.perf_counter()
            list(pool.map(fill, range(self.threads)))
            seconds = time.perf_counter() - began
        return Sample(
            nbytes=nbytes, seconds=seconds, cpu_seconds=cpu_seconds() - before,
            threads=self.threads,
        )  # fmt: skip


class Link:
    """Copies to a device by torch alone, one queued behind the other: it owes us nothing.

    Parameters
    ----------
    device : Accelerator
        Where to.
    nbytes : int
        Of one copy.
    pinned : bool
        Copy from pinned memory, else from what a program gets that asks for nothing.
    """

    def __init__(self, device: Accelerator, nbytes: int, *, pinned: bool) -> None:
        torch = import_torch()
        self.device = device
        self.pinned = pinned
        self._module = getattr(torch, device.kind)
        with device.current():
            self._here: Any = torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
            self._here.fill_(1)
            self._there: Any = torch.empty(nbytes, dtype=torch.uint8, device=device.name)
            self._module.synchronize()

    def run(self) -> Sample:
        """Copy for a while."""
        nbytes = len(self._here)
        first = self._copies(1)
        count = min(LINK_NBYTES // nbytes, int(LINK_SECONDS / max(first, 1e-6)))
        if count <= 1:
            return Sample(nbytes=nbytes, seconds=first)
        return Sample(nbytes=count * nbytes, seconds=self._copies(count))

    def _copies(self, count: int) -> float:
        with self.device.current():
            began = time.perf_counter()
            for _ in range(count):
                self._there.copy_(self._here, non_blocking=self.pinned)
            self._module.synchronize()
            return time.perf_counter() - began
