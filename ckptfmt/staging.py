"""How bytes get from reads to a device: the strategies A to E, and the probe that chooses.

Which memory direct reads may go to, and which memory asynchronous copies may come from, differs
between chips, versions of runtimes and drivers (docs/devices.md). It is tried once for each device
and process, never guessed from a version.
"""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt import _core, gds, telemetry
from ckptfmt.errors import CleanupWarning, DeviceError, OptionError
from ckptfmt.input_file import SECTOR
from ckptfmt.pool import HUGE_NBYTES, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.accelerator import Accelerator
    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition

WHAT = {
    "npu": {
        "A": "own huge pages registered with aclrtHostRegisterV2, direct reads, asynchronous "
        "copies",
        "B": "own huge pages registered with aclrtHostRegister, direct reads, asynchronous copies",
        "C": "aclrtMallocHost, direct reads by way of own memory, asynchronous copies",
        "D": "own huge pages, direct reads, synchronous copies",
        "E": "reads straight into device memory, which is the host's (RC mode)",
    },
    "cuda": {
        "A": "own huge pages registered with cudaHostRegister, direct reads, asynchronous copies",
        "C": "cudaHostAlloc, direct reads by way of own memory, asynchronous copies",
        "D": "own huge pages, direct reads, copies waited for one by one",
        "G": "reads straight into the GPU's memory, by cuFile (GPUDirect Storage)",
    },
}


@dataclass(frozen=True, slots=True)
class Staging:
    """The strategy of one device, and why the better ones are not it.

    Attributes
    ----------
    kind : str
        The device's.
    letter : str
        ``A`` to ``E``.
    reasons : tuple of str
        One for each strategy that was tried and refused.
    """

    kind: str
    letter: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.letter}: {WHAT[self.kind][self.letter]}{why}"


#: By device, what was asked for, and whether direct reads could be tried.
_chosen: dict[tuple[str, str, bool], Staging] = {}


def choose(device: Accelerator, partitions: Sequence[Partition], options: LoadOptions) -> Staging:
    """The strategy for a device: the one asked for, or the best that its probe admits.

    Parameters
    ----------
    device : Accelerator
        The device.
    partitions : sequence of Partition
        Files to read from for the probe. Where none has direct reads, those are left untried, and
        tried once another load has some.
    options : LoadOptions
        ``npu_staging`` or ``cuda_staging``.

    Raises
    ------
    OptionError
        The one asked for cannot be had; the message says why.
    DeviceError
        A copy to the device came back other than it was sent.
    OutOfMemoryError
        Not even the probe's few bytes can be had, here or there.
    """
    wanted = options.npu_staging if device.kind == "npu" else options.cuda_staging
    key = (device.name, wanted, _with_direct(partitions) is not None)
    if key not in _chosen:
        _chosen[key] = chosen = _choose(device, partitions, wanted)
        worse = wanted == "auto" and chosen.letter != device.stagings[0]
        level = logging.WARNING if worse else logging.DEBUG
        telemetry.log.log(level, "%s: staging %s", device.name, chosen)
    return _chosen[key]


def admitted(device: Accelerator, partitions: Sequence[Partition]) -> dict[str, str]:
    """For each strategy why it cannot be had; empty if it can."""
    found = {}
    for letter in WHAT[device.kind]:
        if (letter == "E") != device.is_shared:
            found[letter] = f"run mode {'RC' if device.is_shared else 'EP'}"
        else:
            found[letter] = _refusal(device, partitions, letter)
    return found


def _choose(device: Accelerator, partitions: Sequence[Partition], wanted: str) -> Staging:
    if wanted != "auto":
        if wanted == "E" and not device.is_shared:
            reason = "host and device have memory of their own (EP mode)"
        else:
            reason = _refusal(device, partitions, wanted)
        if reason:
            raise OptionError(
                f"{device.name}: staging {wanted} cannot be had: {reason}",
                hint=f"CKPTFMT_{device.kind.upper()}_STAGING=auto takes what there is",
            )
        return Staging(device.kind, wanted, ("asked for",))
    reasons: list[str] = []
    if device.kind == "cuda":  # nobody has seen it be faster here, so it has to be asked for
        reasons.append(f"GPUDirect Storage: {gds.missing() or 'CKPTFMT_CUDA_STAGING=G tries it'}")
    for letter in device.stagings:
        reason = _refusal(device, partitions, letter)
        if not reason:
            return Staging(device.kind, letter, tuple(reasons))
        reasons.append(f"not {letter}: {reason}")
    raise DeviceError(f"{device.name}: no way to copy to it: {'; '.join(reasons)}")


def _with_direct(partitions: Sequence[Partition]) -> Partition | None:
    return next((p for p in partitions if p.direct_fd >= 0), None)


def _refusal(device: Accelerator, partitions: Sequence[Partition], letter: str) -> str:
    """Try a strategy on 2 MiB: why it does not work, empty if it does."""
    if letter == "G":
        return gds.refusal() or _try_gds(device, partitions)
    if letter == "E":
        return _try_in_place(device, partitions[0])
    try:
        with Pool(device, letter, HUGE_NBYTES) as pool:
            if letter in ("A", "B") and not device.takes_for_pinned(pool.address):
                return "the runtime does not take registered memory for pinned"
            reason = _try_reads(_with_direct(partitions), pool)
            if reason:
                return reason
            _try_copy(device, pool, wait=letter == "D")
    except DeviceError as error:
        if not error.call:
            raise
        return error.message
    return ""


def _try_gds(device: Accelerator, partitions: Sequence[Partition]) -> str:
    """Whether the files' system has a part in it."""
    direct = [p.direct_fd for p in partitions if p.direct_fd >= 0]
    if len(direct) < len(partitions):
        return "not all files can be read directly"
    fd = os.dup(direct[0])  # loads in other threads have theirs
    try:
        with device.current():
            _core.CuFile([fd]).close()
    except OSError as error:
        return str(error)
    finally:
        os.close(fd)
    return ""


def _try_in_place(device: Accelerator, partition: Partition) -> str:
    """Read one sector straight into device memory, and compare it there."""
    there = device.empty(SECTOR)
    device.wait_for_torch()
    try:
        found = _core.pread_into(partition.fd, _window(there.data_ptr(), SECTOR), 0)
    except OSError as error:
        return f"a read into device memory fails: {error.strerror}"
    back = bytearray(SECTOR)
    device.runtime.copy(_address(back), there.data_ptr(), SECTOR, to_device=False)
    if back[:found] != os.pread(partition.fd, found, 0):
        raise DeviceError(
            f"{device.name}: {found} bytes read into its memory came back different",
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


def _try_copy(device: Accelerator, pool: Pool, *, wait: bool) -> None:
    """Copy a sector there and back. A difference is never a reason for a fallback."""
    sent = os.urandom(SECTOR)
    _window(pool.address, SECTOR)[:] = sent
    there = device.empty(SECTOR)
    device.wait_for_torch()
    if wait:
        device.runtime.copy(there.data_ptr(), pool.address, SECTOR, to_device=True)
    else:
        try:
            device.runtime.copy_async(there.data_ptr(), pool.address, SECTOR)
        except DeviceError:
            if device.runtime.undrained:
                pool.abandon(there)
                warnings.warn(
                    f"{pool.nbytes} bytes of host memory are never freed: a copy to {device.name} "
                    "cannot be waited for", CleanupWarning, stacklevel=2,
                )  # fmt: skip
            raise
    back = bytearray(SECTOR)
    device.runtime.copy(_address(back), there.data_ptr(), SECTOR, to_device=False)
    if back != sent:
        raise DeviceError(
            f"{device.name}: {SECTOR} bytes copied to it came back different",
            hint="the device or its link corrupts data; ckptfmt selftest tells more",
        )


def _address(buffer: bytearray) -> int:
    """Where a buffer is that stays."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _window(address: int, nbytes: int) -> memoryview:
    """Memory that somebody else owns, as a buffer."""
    return memoryview((ctypes.c_ubyte * nbytes).from_address(address)).cast("B")
