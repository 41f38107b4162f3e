"""Host memory that copies to a device come from; how much of it, and keeping it for later loads."""

from __future__ import annotations

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptfmt import _core, telemetry
from ckptfmt.errors import CleanupWarning, DeviceError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from ckptfmt.accelerator import Accelerator
    from ckptfmt.options import LoadOptions

HUGE_NBYTES = 2 << 20
#: Threads that have a pool's pages made, at most.
POPULATING = 4
#: Of the memory that the system has to give, the pool takes this share at most.
AVAILABLE_SHARE = 4
#: Where host and device share one memory, the pool takes from the model's.
SHARED_POOL_NBYTES = 64 << 20

#: Of the process, as a container sees it: control groups of version 2 and of version 1.
GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


class Pool:
    """Host memory for the slots of one device.

    Parameters
    ----------
    device : Accelerator
        The device.
    letter : str
        The strategy, of ``staging.WHAT``.
    nbytes : int
        Its size, rounded up to 2 MiB.

    Attributes
    ----------
    address : int
        Where copies come from.
    bounce : int
        Where direct reads go, 0 if they go to `address`.

    Raises
    ------
    DeviceError
        The runtime refuses the memory.
    OutOfMemoryError
        The system refuses it.
    """

    def __init__(self, device: Accelerator, letter: str, nbytes: int) -> None:
        self.device = device
        self.letter = letter
        self.nbytes = nbytes = -(-nbytes // HUGE_NBYTES) * HUGE_NBYTES
        self.address = self.bounce = 0
        self._pinned = self._registered = 0
        self.memory = _host_memory(device, nbytes)
        telemetry.log.debug("%s: a pool of %d bytes, staging %s", device.name, nbytes, letter)
        self.memory.keep_from_children()
        if letter == "C":
            self._pinned = self.address = device.runtime.malloc_host(nbytes)
            self.bounce = self.memory.address
            return
        self.address = self.memory.address
        if letter in ("A", "B"):
            self._registered = self.address  # at first: what interrupts the call may come after it
            _registered[self.address] = self.memory
            try:
                device.register(self.address, nbytes, letter)
            except DeviceError:
                self._registered = 0
                del _registered[self.address]
                raise
            except BaseException:
                self.close()
                raise

    @property
    def host_nbytes(self) -> int:
        """Host memory in all."""
        return self.nbytes * (2 if self.bounce else 1)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it has been given up."""
        return bool(self._registered or self._pinned)

    def abandon(self, *others: object) -> None:
        """Never release it, nor others: the device may still read and write."""
        self._registered = self._pinned = 0
        _LEAKED.extend((self.memory, *others))

    def close(self) -> None:
        """Release everything. What the runtime does not let go is leaked, never left dangling."""
        for held, release in (
            ("_registered", self.device.runtime.unregister),
            ("_pinned", self.device.runtime.free_host),
        ):  # fmt: skip
            address = getattr(self, held)
            try:
                if address:
                    release(address)
                    _registered.pop(address, None)
                setattr(self, held, 0)
            except DeviceError as error:
                setattr(self, held, 0)
                _LEAKED.append(self.memory)
                warnings.warn(
                    f"{self.nbytes} bytes of host memory are never freed: {error}",
                    CleanupWarning, stacklevel=3,
                )  # fmt: skip

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _host_memory(device: Accelerator, nbytes: int) -> _core.Memory:
    """Huge pages, every one of them there; those that an administrator has set aside at best."""
    try:
        memory = _core.Memory(nbytes, hugetlb=True)
        try:
            _populate(memory)
        except MemoryError:  # a limit on those that were set aside
            telemetry.log.debug("%s: its pool gets no page that was set aside", device.name)
            memory = _core.Memory(nbytes)
            _populate(memory)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"a pool for {device.name}: {error}", hint="set a smaller CKPTFMT_POOL_NBYTES"
        ) from error
    return memory


def _populate(memory: _core.Memory) -> None:
    """Have all of it there, by some threads at once: the system zeroes each page."""
    pages = memory.nbytes // HUGE_NBYTES
    n_threads = max(1, min(POPULATING, pages // 8))
    step = -(-pages // n_threads) * HUGE_NBYTES
    with ThreadPoolExecutor(n_threads, thread_name_prefix="ckptfmt-pool") as threads:
        starts = range(0, memory.nbytes, step)
        list(threads.map(lambda at: memory.populate(at, min(step, memory.nbytes - at)), starts))


#: Memory that the runtime knows, by address: whatever becomes of its pool, it outlives that.
_registered: dict[int, _core.Memory] = {}

#: Memory that the device may still read.
_LEAKED: list[object] = []

#: Pools between loads, of devices that keep them, and the process that they are of.
_kept: list[Pool] = []
_kept_by = 0
_lock = threading.Lock()


@contextmanager
def borrowed(device: Accelerator, letter: str, nbytes: int) -> Iterator[Pool]:
    """A pool of `nbytes` or more for one load.

    Registering takes longer than a load of some GB. Where the device lets all devices of its kind
    copy from registered memory, a pool is kept afterwards, as many as have been in use at once.
    """
    if not device.keeps_pools or letter == "D":  # the latter's is nothing but memory
        with Pool(device, letter, nbytes) as pool:
            yield pool
        return
    pool = _take(device, letter, nbytes) or Pool(device, letter, nbytes)
    pool.device = device  # by which it is released: the one before may be gone
    try:
        yield pool
    finally:
        if pool.is_whole:
            with _lock:
                _kept.append(pool)


def release_kept() -> None:
    """Give back the pools that are kept between loads; those in use are kept afterwards."""
    with _lock:
        pools = list(_kept) if _kept_by == os.getpid() else []
        _kept.clear()
    for pool in pools:
        pool.close()


def _take(device: Accelerator, letter: str, nbytes: int) -> Pool | None:
    """A kept pool that is large enough; one that is too small makes room for a larger one."""
    global _kept_by  # noqa: PLW0603 - registered memory is the process's
    with _lock:
        if _kept_by != os.getpid():  # a child of fork has the pages, and no device to copy
            _LEAKED.extend(_kept)
            _kept.clear()
            _kept_by = os.getpid()
        mine = [p for p in _kept if (p.device.kind, p.letter) == (device.kind, letter)]
        mine.sort(key=lambda p: (p.nbytes < nbytes, p.nbytes))
        if not mine:
            return None
        _kept.remove(mine[0])
    if mine[0].nbytes >= nbytes:
        return mine[0]
    mine[0].close()
    return None


def pool_nbytes(
    options: LoadOptions, letter: str, *, shared: bool, pools: int, of_device: int = 1
) -> int:
    """How much one pool may hold: the option, less where memory is scarce, 8 MiB at least.

    Parameters
    ----------
    shared : bool
        Whether host and device have one memory.
    pools : int
        Of the whole load.
    of_device : int
        Those for the same device, which share its bound.
    """
    limit = min(options.pool_nbytes, SHARED_POOL_NBYTES) if shared else options.pool_nbytes
    available = available_nbytes() // AVAILABLE_SHARE // pools
    if available < limit // of_device:
        telemetry.log.warning(
            "memory is scarce: a pool of at most %d bytes, not %d", available, limit // of_device
        )
    limit = min(limit // of_device, available)
    if letter == "C":
        limit //= 2  # as much again for direct reads
    return max(limit, 8 << 20)


def available_nbytes() -> int:
    """Memory that could be had without swapping, by the system and by limits on its groups."""
    return min(_system_nbytes(), *_group_nbytes(), 1 << 62)


def _group_nbytes() -> Iterator[int]:
    """What is left of the memory that containers and services are held to."""
    for folder, limit, used in GROUPS:
        try:
            with open(f"{folder}/{limit}", encoding="ascii") as most, open(
                f"{folder}/{used}", encoding="ascii"
            ) as now:
                left = int(most.read()) - int(now.read())
            yield max(0, left + _cached_nbytes(folder))
        except (OSError, ValueError):  # not this version, or "max"
            continue


def _cached_nbytes(folder: str) -> int:
    """What counts as used and is only the page cache: a group that needs memory drops it."""
    with open(f"{folder}/memory.stat", encoding="ascii") as lines:
        found = dict(line.split() for line in lines)
    names = ("total_inactive_file", "total_active_file")  # of version 1
    if names[0] not in found:
        names = ("inactive_file", "active_file")
    return sum(int(found.get(name, 0)) for name in names)


def _system_nbytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
