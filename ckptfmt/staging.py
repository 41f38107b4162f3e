"""How bytes get from reads to an NPU: the strategies A to E, the probe that chooses, the pool.

Which memory direct reads may go to, and which memory asynchronous copies may come from, differs
between chips, CANN versions and drivers (docs/devices.md). It is tried once for each device and
process, never guessed from a version.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt import _core
from ckptfmt.errors import CleanupWarning, DeviceError, OptionError, OutOfMemoryError
from ckptfmt.input_file import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from ckptfmt.npu import Npu
    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition

HUGE_NBYTES = 2 << 20
#: Of the memory that the system has to give, the pool takes this share at most.
AVAILABLE_SHARE = 4
#: Where host and device share one memory, the pool takes from the model's.
SHARED_POOL_NBYTES = 64 << 20

#: Of the process, as a container sees it: control groups of version 2 and of version 1.
GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)

WHAT = {
    "A": "own huge pages registered with aclrtHostRegisterV2, direct reads, asynchronous copies",
    "B": "own huge pages registered with aclrtHostRegister, direct reads, asynchronous copies",
    "C": "aclrtMallocHost, direct reads by way of own memory, asynchronous copies",
    "D": "own huge pages, direct reads, synchronous copies",
    "E": "reads straight into device memory, which is the host's (RC mode)",
}
ORDER = ("A", "B", "C", "D")
#: Where host and device have one memory there is a better way than all of these.
SHARED_ORDER = ("E", *ORDER)


@dataclass(frozen=True, slots=True)
class Staging:
    """The strategy of one device, and why the better ones are not it.

    Attributes
    ----------
    letter : str
        ``A`` to ``E``.
    reasons : tuple of str
        One for each strategy that was tried and refused.
    """

    letter: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.letter}: {WHAT[self.letter]}{why}"


#: By device, what was asked for, and whether direct reads could be tried.
_chosen: dict[tuple[str, str, bool], Staging] = {}


def choose(npu: Npu, partitions: Sequence[Partition], options: LoadOptions) -> Staging:
    """The strategy for a device: the one asked for, or the best that its probe admits.

    Parameters
    ----------
    npu : Npu
        The device.
    partitions : sequence of Partition
        Files to read from for the probe. Where none has direct reads, those are left untried, and
        tried once another load has some.
    options : LoadOptions
        ``npu_staging``.

    Raises
    ------
    OptionError
        The one asked for cannot be had; the message says why.
    DeviceError
        A copy to the device came back other than it was sent.
    OutOfMemoryError
        Not even the probe's few bytes can be had, here or there.
    """
    wanted = options.npu_staging
    key = (npu.name, wanted, _with_direct(partitions) is not None)
    if key not in _chosen:
        _chosen[key] = _choose(npu, partitions, wanted)
    return _chosen[key]


def admitted(npu: Npu, partitions: Sequence[Partition]) -> dict[str, str]:
    """For each strategy why it cannot be had; empty if it can."""
    found = {}
    for letter in WHAT:
        if (letter == "E") != npu.is_shared:
            found[letter] = f"run mode {npu.run_mode}"
        else:
            found[letter] = _refusal(npu, partitions, letter)
    return found


def _choose(npu: Npu, partitions: Sequence[Partition], wanted: str) -> Staging:
    if wanted != "auto":
        if wanted == "E" and not npu.is_shared:
            reason = "host and device have memory of their own (EP mode)"
        else:
            reason = _refusal(npu, partitions, wanted)
        if reason:
            raise OptionError(
                f"{npu.name}: staging {wanted} cannot be had: {reason}",
                hint="CKPTFMT_NPU_STAGING=auto takes what there is",
            )
        return Staging(wanted, ("asked for",))
    reasons: list[str] = []
    for letter in SHARED_ORDER if npu.is_shared else ORDER:
        reason = _refusal(npu, partitions, letter)
        if not reason:
            return Staging(letter, tuple(reasons))
        reasons.append(f"not {letter}: {reason}")
    raise DeviceError(f"{npu.name}: no way to copy to it: {'; '.join(reasons)}")


def _with_direct(partitions: Sequence[Partition]) -> Partition | None:
    return next((p for p in partitions if p.direct_fd >= 0), None)


def _refusal(npu: Npu, partitions: Sequence[Partition], letter: str) -> str:
    """Try a strategy on 2 MiB: why it does not work, empty if it does."""
    if letter == "E":
        return _try_in_place(npu, partitions[0])
    try:
        with Pool(npu, letter, HUGE_NBYTES) as pool:
            if letter in ("A", "B") and npu.acl.is_host(pool.address) is False:
                return "the runtime does not take registered memory for pinned"
            reason = _try_reads(_with_direct(partitions), pool)
            if reason:
                return reason
            _try_copy(npu, pool, wait=letter == "D")
    except DeviceError as error:
        if not error.call:
            raise
        return error.message
    return ""


def _try_in_place(npu: Npu, partition: Partition) -> str:
    """Read one sector straight into device memory, and compare it there."""
    there = npu.empty(SECTOR)
    npu.wait_for_torch()
    try:
        found = _core.pread_into(partition.fd, _window(there.data_ptr(), SECTOR), 0)
    except OSError as error:
        return f"a read into device memory fails: {error.strerror}"
    back = bytearray(SECTOR)
    npu.acl.copy(_address(back), there.data_ptr(), SECTOR, to_device=False)
    if back[:found] != os.pread(partition.fd, found, 0):
        raise DeviceError(
            f"{npu.name}: {found} bytes read into its memory came back different",
            hint="CKPTFMT_NPU_STAGING=C copies instead; ckptfmt selftest tells more",
        )
    return ""


def _try_reads(partition: Partition | None, pool: Pool) -> str:
    """Read one sector directly into what direct reads would go to."""
    if partition is None:
        return ""
    try:
        _core.pread_into(partition.direct_fd, _window(pool.bounce or pool.address, SECTOR), 0)
    except OSError as error:
        return f"a direct read into its memory fails: {error.strerror}"
    return ""


def _try_copy(npu: Npu, pool: Pool, *, wait: bool) -> None:
    """Copy a sector there and back. A difference is never a reason for a fallback."""
    sent = os.urandom(SECTOR)
    _window(pool.address, SECTOR)[:] = sent
    there = npu.empty(SECTOR)
    npu.wait_for_torch()
    if wait:
        npu.acl.copy(there.data_ptr(), pool.address, SECTOR, to_device=True)
    else:
        try:
            npu.acl.copy_async(there.data_ptr(), pool.address, SECTOR)
        except DeviceError:
            if npu.acl.undrained:
                pool.abandon()
                _LEAKED.append(there)
                warnings.warn(
                    f"{pool.nbytes} bytes of host memory are never freed: a copy to {npu.name} "
                    "cannot be waited for", CleanupWarning, stacklevel=2,
                )  # fmt: skip
            raise
    back = bytearray(SECTOR)
    npu.acl.copy(_address(back), there.data_ptr(), SECTOR, to_device=False)
    if back != sent:
        raise DeviceError(
            f"{npu.name}: {SECTOR} bytes copied to it came back different",
            hint="the device or its link corrupts data; ckptfmt selftest tells more",
        )


def _address(buffer: bytearray) -> int:
    """Where a buffer is that stays."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _window(address: int, nbytes: int) -> memoryview:
    """Memory that somebody else owns, as a buffer."""
    return memoryview((ctypes.c_ubyte * nbytes).from_address(address)).cast("B")


class Pool:
    """Host memory of one load for the slots of one device.

    Parameters
    ----------
    npu : Npu
        The device.
    letter : str
        The strategy.
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

    def __init__(self, npu: Npu, letter: str, nbytes: int) -> None:
        self.npu = npu
        self.letter = letter
        self.nbytes = nbytes = -(-nbytes // HUGE_NBYTES) * HUGE_NBYTES
        self.address = self.bounce = 0
        self._pinned = self._registered = 0
        self.memory = _host_memory(npu, nbytes)
        if letter == "C":
            self._pinned = self.address = npu.acl.malloc_host(nbytes)
            self.bounce = self.memory.address
            return
        self.address = self.memory.address
        if letter in ("A", "B"):
            name = "aclrtHostRegisterV2" if letter == "A" else "aclrtHostRegister"
            if not _core.acl_has(name) or not _core.acl_has("aclrtHostUnregister"):
                raise DeviceError(f"this CANN has no {name}", call=name)
            self._registered = self.address  # at first: what interrupts the call may come after it
            try:
                npu.acl.register(self.address, nbytes, v2=letter == "A")
            except DeviceError:
                self._registered = 0
                raise
            except BaseException:
                self.close()
                raise

    @property
    def host_nbytes(self) -> int:
        """Host memory in all."""
        return self.nbytes * (2 if self.bounce else 1)

    def abandon(self) -> None:
        """Never release it: the device may still read."""
        self._registered = self._pinned = 0
        _LEAKED.append(self.memory)

    def close(self) -> None:
        """Release everything. What the runtime does not let go is leaked, never left dangling."""
        for held, release in (
            ("_registered", self.npu.acl.unregister), ("_pinned", self.npu.acl.free_host),
        ):  # fmt: skip
            address = getattr(self, held)
            try:
                if address:
                    release(address)
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


def _host_memory(npu: Npu, nbytes: int) -> _core.Memory:
    """Huge pages, every one of them there; those that an administrator has set aside at best."""
    try:
        memory = _core.Memory(nbytes, hugetlb=True)
        try:
            memory.populate()
        except MemoryError:  # a limit on those that were set aside
            memory = _core.Memory(nbytes)
            memory.populate()
    except MemoryError as error:
        raise OutOfMemoryError(
            f"a pool for {npu.name}: {error}", hint="set a smaller CKPTFMT_POOL_NBYTES"
        ) from error
    return memory


#: Memory that the device may still read.
_LEAKED: list[Any] = []


def pool_nbytes(
    options: LoadOptions, staging: Staging, *, shared: bool, pools: int, of_device: int = 1
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
    limit = min(limit // of_device, available_nbytes() // AVAILABLE_SHARE // pools)
    if staging.letter == "C":
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
                yield max(0, int(most.read()) - int(now.read()))
        except (OSError, ValueError):  # not this version, or "max"
            continue


def _system_nbytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


