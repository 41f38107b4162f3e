"""Checks of the machine and its kernel: what decides how files can be read here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import numbers
from ckptfmt.doctor.versions import KERNEL_REFUSES_REGISTERING
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

#: What came with which kernel, and what is done without it.
NEWER = (
    ((5, 1), "io_uring", "threads read with pread"),
    ((6, 1), "statx that tells how to align direct reads", "one read is tried"),
    ((6, 5), "cachestat", "mincore is asked, for files that this user owns or may write"),
)
#: Rings of a load, all together; before Linux 5.12 they counted against what may be locked.
RINGS_NBYTES = 1 << 20
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@check("machine.kernel", "architecture and kernel")
def kernel(case: Case) -> Iterator[Told]:
    """FAIL on processors other than x86-64 and aarch64. WARN if the kernel is so old (5.10 and
    before) that an NPU's driver cannot register a process's own memory, unless the chip needs none
    of it, or it does here."""
    release, architecture = case.system.kernel, case.system.architecture
    if architecture and architecture not in ("x86_64", "aarch64"):
        yield fail(
            f"this processor is {architecture}", "ckptfmt runs on x86_64 and aarch64 Linux only"
        )
        return
    version = numbers(release)
    if not version:
        yield skip("the kernel's release is not told")
        return
    without = [f"no {what} ({instead})" for since, what, instead in NEWER if version < since]
    text = "; ".join([f"Linux {release} {architecture}".strip(), *without])
    is_old = case.kind == "npu" and version[:2] <= numbers(KERNEL_REFUSES_REGISTERING)
    if is_old and not case.is_board and not (case.tried and case.tried.registers):
        yield warn(
            f"{text}; up to {KERNEL_REFUSES_REGISTERING} a driver registers no memory of ours, so "
            "that loads take staging C, with one more copy in host memory",
            "a newer kernel, if the way from disk to device is to be faster",
        )
    else:
        yield ok(text)


@check("machine.page_size", "size of pages")
def page_size(case: Case) -> Iterator[Told]:
    """FAIL if pages are larger than checkpoints can be aligned to."""
    nbytes = case.system.page_nbytes
    if not nbytes:
        yield skip("the size of pages is not told")
    elif nbytes > 2 << 20:
        yield fail(f"pages of {nbytes >> 10} KiB", "use a kernel with pages of 4, 16 or 64 KiB")
    else:
        yield ok(f"pages of {nbytes >> 10} KiB")


@check("machine.huge_pages", "huge pages: transparent and reserved")
def huge_pages(case: Case) -> Iterator[Told]:
    """WARN if there are neither transparent huge pages nor reserved ones: memory then comes 4 KiB
    at a time, and slowly."""
    text = case.system.read("/sys/kernel/mm/transparent_hugepage/enabled")
    match = re.search(r"\[(\w+)\]", text)
    memory = case.system.read("/proc/meminfo")
    free = re.search(r"(?m)^HugePages_Free:\s+([0-9]+)", memory)
    reserved = int(free[1]) if free else 0
    told = f"transparent: {match[1] if match else 'not there'}; {reserved} reserved pages free"
    if (match is None or match[1] == "never") and reserved == 0:
        yield warn(
            told, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        )
    else:
        yield ok(told)


@check("machine.memlock", "memory that may be locked (ulimit -l)")
def memlock(case: Case) -> Iterator[Told]:
    """WARN if the limit is so low that io_uring cannot be set up with it, as before Linux 5.12."""
    match = re.search(r"(?m)^Max locked memory\s+(\S+)", case.system.read("/proc/self/limits"))
    if match is None:
        yield skip("the limits of the process are not told")
    elif not match[1].isdecimal():
        yield ok("no limit")
    elif int(match[1]) < RINGS_NBYTES and (5, 1) <= numbers(case.system.kernel) < (5, 12):
        yield warn(
            f"{format_nbytes(int(match[1]))}; before Linux 5.12 the rings of io_uring count as "
            "locked",
            "ulimit -l unlimited; for a container: --ulimit memlock=-1",
        )
    else:
        yield ok(
            f"{format_nbytes(int(match[1]))}; enough: memory that may not be locked is used "
            "unlocked"
        )


@check("machine.io_uring", "whether io_uring is permitted, by settings")
def io_uring(case: Case) -> Iterator[Told]:
    """WARN if the kernel is too old for it or a setting forbids it; threads read with pread then,
    and fewer reads are in flight. A container's filter, which may forbid it, is noted."""
    version = numbers(case.system.kernel)
    setting = case.system.read("/proc/sys/kernel/io_uring_disabled").strip()
    status = case.system.read("/proc/self/status")
    if version and version < (5, 1):
        yield warn(f"Linux {case.system.kernel} has none", "Linux 5.1 or newer")
    elif setting == "2" or (setting == "1" and not _may_all_the_same(case)):
        yield warn(
            f"kernel.io_uring_disabled is {setting}", "sudo sysctl kernel.io_uring_disabled=0"
        )
    elif re.search(r"(?m)^Seccomp:\s+2", status):
        yield ok(
            "no setting forbids it; the process has a seccomp filter, as containers have, which "
            "may: probe.io_uring tells",
        )
    else:
        yield ok("no setting forbids it")


def _may_all_the_same(case: Case) -> bool:
    """With 1, root may, and members of a group."""
    uid, groups = case.system.user
    group = case.system.read("/proc/sys/kernel/io_uring_group").strip()
    return uid == 0 or (group.isdecimal() and int(group) in groups)


@check("machine.user", "the user")
def user(case: Case) -> Iterator[Told]:
    """Never more than a note: nothing of ckptfmt needs root."""
    uid, _ = case.system.user
    if uid == 0:
        yield ok("root")
        return
    beside = ""
    if case.system.is_folder("/usr/local/Ascend") and not case.system.may_use("/usr/local/Ascend"):
        beside = (
            "; /usr/local/Ascend belongs to another, so installers of CANN and NNAL need another "
            "path (--install-path=$HOME/Ascend)"
        )
    yield ok(f"no root here; ckptfmt needs none{beside}")


@check("machine.proxy", "proxy variables", concerns="other")
def proxy(case: Case) -> Iterator[Told]:
    """WARN if a proxy is set that connections to this machine itself would be caught by. ckptfmt
    makes none: it concerns servers beside it."""
    environment = case.system.environment

    def value(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    names = [name for name in PROXIES if value(name)]
    if not names:
        yield ok("none set")
        return
    excluded = {entry.strip() for entry in value("no_proxy").split(",")}
    lacking = [name for name in ("localhost", "127.0.0.1") if name not in excluded]
    if lacking and "*" not in excluded:
        yield warn(
            f"{', '.join(names)} is set and no_proxy lacks {' and '.join(lacking)}: clients of "
            "servers on this machine would ask the proxy",
            'export NO_PROXY="localhost,127.0.0.1" no_proxy="localhost,127.0.0.1"',
        )
    else:
        yield ok(f"{', '.join(names)} is set; not for this machine itself")
