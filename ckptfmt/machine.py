"""What a report has to say about the machine it was made on: the host, and each device."""

from __future__ import annotations

import glob
import os
import platform
import re
import resource
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ckptfmt import cann_files, chips, engine, pool
from ckptfmt._core import crc32c_implementation
from ckptfmt.cuda import Cuda
from ckptfmt.npu import Npu
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from ckptfmt.accelerator import Accelerator

#: Renumbers the devices that a process may use.
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuFacts:
    """One device, as it was when it had been brought up.

    Attributes
    ----------
    name : str
        ``"npu:0"``.
    physical : int or None
        Its number behind ``ASCEND_RT_VISIBLE_DEVICES``.
    soc : str
        The chip's name.
    computes_bf16 : bool
        Whether the chip has operators for bf16.
    run_mode : str
        ``"EP"``, or ``"RC"`` where host and device have one memory.
    cann, driver, torch_npu : str
        Versions; empty where nothing tells them.
    library : str
        The runtime's library that this process has loaded.
    total_nbytes, free_nbytes : int
        Its memory.
    start_seconds : float
        For bringing it up.
    """

    name: str
    physical: int | None
    soc: str
    computes_bf16: bool
    run_mode: str
    cann: str
    driver: str
    torch_npu: str
    library: str
    total_nbytes: int
    free_nbytes: int
    start_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU, as it was when it had been brought up.

    Attributes
    ----------
    name : str
        ``"cuda:0"``.
    model : str
        As the driver calls it.
    runtime, driver : str
        Versions of CUDA: of the runtime, and the newest one that the driver serves.
    library : str
        The runtime's library that is used.
    total_nbytes, free_nbytes : int
        Its memory.
    start_seconds : float
        For bringing it up.
    """

    name: str
    model: str
    runtime: str
    driver: str
    library: str
    total_nbytes: int
    free_nbytes: int
    start_seconds: float


def device_facts(device: Accelerator) -> NpuFacts | GpuFacts:
    """Ask a device what it is."""
    if isinstance(device, Cuda):
        return gpu_facts(device)
    assert isinstance(device, Npu)
    return npu_facts(device)


def gpu_facts(gpu: Cuda) -> GpuFacts:
    """Ask a GPU what it is."""
    free, total = gpu.memory()
    return GpuFacts(
        name=gpu.name, model=gpu.model, library=gpu.library, total_nbytes=total, free_nbytes=free,
        start_seconds=gpu.start_seconds, **gpu.versions(),
    )  # fmt: skip


def npu_facts(npu: Npu) -> NpuFacts:
    """Ask an NPU what it is."""
    free, total = npu.memory()
    told = npu.versions()
    return NpuFacts(
        name=npu.name,
        physical=chips.physical_device(npu.number, os.environ.get(VISIBLE)),
        soc=npu.soc_name,
        computes_bf16=chips.computes_bf16(npu.soc_name),
        run_mode=npu.run_mode,
        cann=told["cann"] or cann_version(),
        driver=told["driver"] or driver_version(),
        torch_npu=package_version("torch_npu"),
        library=loaded_library("libascendcl.so"),
        total_nbytes=total,
        free_nbytes=free,
        start_seconds=npu.start_seconds,
    )


def host_facts() -> dict[str, Any]:
    """Versions and limits of this machine, as plain values for JSON."""
    code = engine.io_uring_errno()
    memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    memory = meminfo()
    return {
        "ckptfmt": VERSION,
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "torch_npu": package_version("torch_npu"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_nbytes": memory.get("MemTotal", 0),
        "available_nbytes": pool.available_nbytes(),
        "page_nbytes": os.sysconf("SC_PAGE_SIZE"),
        "huge_page_nbytes": memory.get("Hugepagesize", 0),
        "huge_pages": {
            "reserved": memory.get("HugePages_Total", 0),
            "free": memory.get("HugePages_Free", 0),
            "transparent": _transparent(),
        },
        "memlock_nbytes": None if memlock == resource.RLIM_INFINITY else memlock,
        "io_uring": "yes" if code == 0 else f"no: {os.strerror(code)}",
        "checksums": crc32c_implementation(),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("CKPTFMT_") or name in (VISIBLE, "TASK_QUEUE_ENABLE")
        },
    }


def meminfo() -> dict[str, int]:
    """``/proc/meminfo``: bytes, or counts where the kernel counts."""
    found = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if value:
            found[name] = int(value[0]) << (10 if value[-1] == "kB" else 0)
    return found


def filesystem(path: str) -> str:
    """The kind of the file system that a path is on, as the kernel names it; empty if unclear."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted]:
            return after.split()[0]
    return ""


def package_version(name: str) -> str:
    """The version of an installed package, empty if there is none; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def loaded_library(name: str) -> str:
    """The path of a library that this process has loaded, empty if it has not."""
    for line in _text("/proc/self/maps").splitlines():
        path = line.partition("/")[2]
        if os.path.basename(path).startswith(name):
            return "/" + path
    return ""


def cann_version() -> str:
    """CANN's version by the files of its installation; empty if there are none."""
    named = [os.environ.get(name, "") for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    for home in filter(None, [*named, *cann_files.HOMES]):
        for pattern, expression in cann_files.VERSION_FILES:
            for path in sorted(glob.glob(os.path.join(glob.escape(home), pattern))):
                match = re.search(expression, _text(path))
                if match:
                    return match[1]
    return ""


def driver_version(install_info: str = cann_files.DRIVER_INSTALLED) -> str:
    """The driver's version by the files of its installation; empty if there are none."""
    folder = cann_files.driver_home(_text(install_info))
    return cann_files.field(_text(os.path.join(folder, "driver", "version.info")), "Version")


def _transparent() -> str:
    """``always``, ``madvise`` or ``never``; empty where the kernel has no such pages."""
    text = _text("/sys/kernel/mm/transparent_hugepage/enabled")
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""


def _text(path: str) -> str:
    """What a file of the system says; nothing if it is not there or not for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
