"""Checks of memory: what is there, and whether a checkpoint fits into it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptfmt import chips
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case
    from ckptfmt.doctor.system import System

#: A load to a device takes this much of the host's memory, or less (docs/devices.md).
POOL_NBYTES = 256 << 20
#: Renumbers the devices that a process may use.
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
#: With less than this left beside a model, a board swaps or ends processes.
SPARE_NBYTES = 512 << 20
#: Control groups of version 2 and of version 1: limit, use, what of that is only the page cache.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat"),
)  # fmt: skip


@check("memory.host", "memory that processes can have")
def host(case: Case) -> Iterator[Told]:
    """Never more than a note; limits of the container count."""
    nbytes, limited = available(case.system)
    if nbytes is None:
        yield skip("/proc/meminfo does not tell")
        return
    yield ok(f"{format_nbytes(nbytes)} available{', by the limit of the container' * limited}")


@check("memory.fit", "the checkpoint of --for against free memory")
def fit(case: Case) -> Iterator[Told]:
    """FAIL if it does not fit; WARN if it fits with next to nothing to spare. Where host and device
    share memory, the smaller of what both tell counts."""
    if case.checkpoint is None:
        yield skip("no checkpoint was named with --for")
        return
    needed = case.checkpoint_nbytes
    in_host, _ = available(case.system)
    if in_host is None:
        yield skip("free memory is not told")
        return
    if case.kind == "cpu":
        yield _fits(f"needs {format_nbytes(needed)}, available {format_nbytes(in_host)}",
                    needed, in_host)  # fmt: skip
        return
    free = device_free_nbytes(case)
    if free is None:
        yield skip(f"needs {format_nbytes(needed)}; the memory of {case.device} is not told")
    elif case.is_board:
        both = min(in_host, free)
        yield _fits(
            f"needs {format_nbytes(needed)}, available {format_nbytes(both)} (host and device "
            "share it)", needed, both,
        )  # fmt: skip
    else:
        pool = min(POOL_NBYTES, in_host // 4)
        yield _fits(
            f"model {format_nbytes(needed)}, device free {format_nbytes(free)}, host pool "
            f"{format_nbytes(pool)} of {format_nbytes(in_host)}", needed, free,
        )  # fmt: skip


def _fits(told: str, needed: int, free: int) -> Told:
    fix = (
        "end other processes; convert --dtype fp16 halves fp32; --names or stream() loads parts; "
        "several devices take one each"
    )
    if needed > free:
        return fail(f"{told}: does not fit", fix)
    if needed + SPARE_NBYTES > free:
        return warn(f"{told}: fits, with {format_nbytes(free - needed)} to spare", fix)
    return ok(f"{told}: fits")


def available(system: System) -> tuple[int | None, bool]:
    """Bytes that can be had, and whether a limit of the container decides."""
    match = re.search(r"(?m)^MemAvailable:\s+([0-9]+) kB", system.read("/proc/meminfo"))
    if match is None:
        return None, False
    here = int(match[1]) << 10
    for limit, used, statistics in GROUPS:
        most, now = system.read(limit).strip(), system.read(used).strip()
        if most.isdecimal() and now.isdecimal():
            found = re.findall(
                r"(?m)^(?:total_)?(?:in)?active_file ([0-9]+)$", system.read(statistics)
            )
            left = max(0, int(most) - int(now) + sum(map(int, found[:2])))
            if left < here:
                return left, True
    return here, False


def device_free_nbytes(case: Case) -> int | None:
    """As the runtime told when the device was brought up, else as npu-smi says."""
    if case.tried is not None and case.tried.free_nbytes() is not None:
        return case.tried.free_nbytes()
    if case.kind != "npu":
        return None
    number = chips.physical_device(case.number, case.system.environment.get(VISIBLE))
    if number is None or number >= len(case.chips):
        return None
    memory = case.chips[number].memory()
    return memory[0] if memory else None
