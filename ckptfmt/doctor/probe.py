"""Checks that try something out on this machine: reads, io_uring, the device itself."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.python import UNCAUGHT
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

#: Below this a link of these chips is not what it should be.
SLOW_LINK, FAST_CHIPS = 10e9, ("Ascend910B", "Ascend910_93")
LOG = "ASCEND_GLOBAL_LOG_LEVEL=1 ASCEND_SLOG_PRINT_TO_STDOUT=1 prints the runtime's own log"


@check("probe.io_uring", "io_uring, by setting up a ring", is_live=True)
def io_uring(case: Case) -> Iterator[Told]:
    """WARN if the kernel or a container's filter refuses; threads read with pread then."""
    from ckptfmt.engine import io_uring_errno  # noqa: PLC0415

    code = io_uring_errno()
    if code == 0:
        yield ok("a ring reads")
    else:
        yield warn(
            f"refused: {os.strerror(code)}; threads read with pread instead",
            "see machine.io_uring; in a container: a seccomp profile that permits io_uring",
        )


@check("probe.direct_reads", "direct reads (O_DIRECT) from the checkpoint's disk", is_live=True)
def direct_reads(case: Case) -> Iterator[Told]:
    """WARN if the file system refuses them; everything is read through the page cache then."""
    from ckptfmt import input_file, machine  # noqa: PLC0415

    path, note = file_to_read(case)
    with opened(path) as fd:
        direct, reason = input_file.open_direct(path, fd)
    where = f"{machine.filesystem(path) or 'the file system'} at {path}"
    if direct < 0:
        yield warn(f"{where}: {reason}; read through the page cache", f"another disk{note}")
    else:
        os.close(direct)
        yield ok(f"{where}: a sector was read{note}")


@check("probe.page_cache", "asking what the page cache has", is_live=True)
def page_cache(case: Case) -> Iterator[Told]:
    """Never more than a note: which call is believed; without one, single bytes are tried."""
    from ckptfmt import page_cache as cache  # noqa: PLC0415

    path, _ = file_to_read(case)
    with opened(path) as fd:
        _, how = cache.query(fd)
    yield ok(f"by {how}" if how else "may not be asked; some bytes are tried instead")


@check("probe.checksums", "how CRC32C is computed", is_live=True)
def checksums(case: Case) -> Iterator[Told]:
    """WARN if the processor has no instructions for it: verifying then takes longer than
    reading."""
    from ckptfmt._core import crc32c_implementation  # noqa: PLC0415

    how = crc32c_implementation()
    if how == "table":
        yield warn(
            "by a table: slow", "a processor with SSE4.2 or ARM's CRC instructions; --no-verify"
        )
    else:
        yield ok(how)


@check("probe.import", "torch with the device's package, in a child process", is_live=True,
       kind="device")  # fmt: skip
def imported(case: Case) -> Iterator[Told]:
    """FAIL with what was said if it cannot be imported, or ends the process."""
    tried = case.tried
    assert tried is not None
    step = tried.steps.get("import")
    if step is None:
        last = tried.said.strip().splitlines()[-1:] or [""]
        yield fail(f"the import came to nothing: {tried.ended} {last[0]}".strip(), LOG)
    elif "error" in step:
        note = f" {UNCAUGHT}" if "ERR99999" in tried.said + step["error"] else ""
        yield fail(step["error"] + note, step["hint"] or LOG)
    else:
        yield ok(f"torch {step['torch']} imports")


@check("probe.library", "libascendcl.so opened, where torch_npu does not import", is_live=True,
       kind="npu")  # fmt: skip
def library(case: Case) -> Iterator[Told]:
    """FAIL with the linker's words if it cannot be opened, or lacks what CANN 7.0 has."""
    step = _step(case, "library")
    if step is None:
        yield skip("torch_npu has opened it" if _step(case, "device") else "it did not come to it")
    elif "error" in step:
        yield fail(step["error"], step["hint"] or LOG)
    else:
        yield ok(f"{step['path']} opens: what is missing is torch_npu's")


@check("probe.device", "the device brought up, in that child", is_live=True, kind="device")
def device(case: Case) -> Iterator[Told]:
    """FAIL with the runtime's words and code if it cannot be brought up; otherwise what it is, and
    its start-up time, which is not loading time. Never the CPU instead."""
    step = _step(case, "device")
    if step is None:
        yield skip("probe.import failed")
    elif "error" in step:
        yield fail(step["error"], step["hint"] or LOG)
    elif case.kind == "cuda":
        yield ok(
            f"{case.device} is a {step['model']}, CUDA {step['runtime']}, driver for "
            f"{step['driver']}; {_memory(step)}; {_start(step)}"
        )
    else:
        shared = ", memory shared with the host" if step["run_mode"] == "RC" else ""
        yield ok(
            f"{case.device} is {step['soc']}{shared}, physical device {step['physical']}, "
            f"{step['run_mode']} mode, CANN {step['cann'] or 'unknown'}, driver "
            f"{step['driver'] or 'unknown'}, {step['library']}; {_memory(step)}; {_start(step)}"
        )


@check("probe.staging", "how bytes get to the device, by trying", is_live=True, kind="device")
def staging(case: Case) -> Iterator[Told]:
    """FAIL if there is no way, or bytes come back changed; WARN if only copies one by one work. The
    better ways that were refused are named with the reasons: registering 2 MiB, a direct read into
    that memory."""
    step = _step(case, "staging")
    if step is None:
        yield skip("probe.device failed")
    elif "error" in step:
        yield fail(step["error"], step["hint"] or LOG)
    elif step["letter"] == "D":
        yield warn(f"strategy {step['text']}", "docs/devices.md: what each strategy needs")
    else:
        yield ok(f"strategy {step['text']}; a sector came back as it was sent")


@check("probe.link", "64 MiB copied to the device", is_live=True, kind="device")
def link(case: Case) -> Iterator[Told]:
    """WARN below 10 GB/s on Ascend 910B and newer."""
    step = _step(case, "link")
    if step is None:
        yield skip("probe.staging failed")
        return
    if "error" in step:
        yield fail(step["error"], step["hint"] or LOG)
        return
    if not step["nbytes"]:
        yield ok("nothing is copied: host and device have one memory")
        return
    rate = step["nbytes"] / max(step["seconds"], 1e-9)
    told = f"{format_nbytes(rate)}/s"
    soc = str((_step(case, "device") or {}).get("soc", ""))
    if rate < SLOW_LINK and soc.startswith(FAST_CHIPS):
        yield warn(
            f"{told}; {soc} takes some 20 GB/s",
            "see probe.staging and machine.huge_pages; is the link shared, or the processor busy?",
        )
    else:
        yield ok(told)


def file_to_read(case: Case) -> tuple[str, str]:
    """A file of the checkpoint, else one of this package: and a note that says so."""
    if case.checkpoint is not None:
        if os.path.isfile(case.checkpoint):
            return case.checkpoint, ""
        files = sorted(
            (entry.stat().st_size, entry.path)
            for entry in os.scandir(case.checkpoint)
            if entry.is_file()
        )
        if files:
            return files[-1][1], ""
    from ckptfmt import _core  # noqa: PLC0415

    return str(_core.__file__), "; --for CHECKPOINT tries the disk that it is on"


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor for reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _step(case: Case, name: str) -> dict[str, Any] | None:
    return case.tried.steps.get(name) if case.tried is not None else None


def _memory(step: dict[str, Any]) -> str:
    free, total = step["free_nbytes"], step["total_nbytes"]
    return f"{format_nbytes(free)} of {format_nbytes(total)} free"


def _start(step: dict[str, Any]) -> str:
    return f"device start-up {step['start_seconds']:.1f} s (not loading time)"
