"""Checks of CUDA: driver, device nodes, and the runtime that torch brings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptfmt.doctor import linker
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import numbers
from ckptfmt.doctor.versions import CUDA_DRIVER, DATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
LIBRARY = "libcuda.so.1"


@check("cuda.driver", "NVIDIA's driver", kind="cuda")
def driver(case: Case) -> Iterator[Told]:
    """FAIL if the kernel has none."""
    version = driver_version(case)
    if version:
        yield ok(f"driver {version}")
    else:
        yield fail(
            "no driver: /proc/driver/nvidia/version and /sys/module/nvidia/version are not there",
            "install NVIDIA's driver on the host; in a container: docker run --gpus all",
        )


@check("cuda.nodes", "device nodes", kind="cuda")
def nodes(case: Case) -> Iterator[Told]:
    """FAIL if nodes below /dev are missing or not for this user."""
    system = case.system
    gpus = system.find("/dev/nvidia[0-9]*")
    missing = [name for name in NODES if not system.exists(name)]
    if not gpus:
        missing.insert(0, "/dev/nvidia0 (or another number)")
    refused = [name for name in (*gpus, *NODES) if name not in missing and not system.may_use(name)]
    if missing:
        yield fail(
            f"missing: {', '.join(missing)}",
            "nvidia-smi on the host makes them; in a container: docker run --gpus all",
        )
    elif refused:
        yield fail(
            f"this user may not use {', '.join(refused)}",
            "join the group that owns them: ls -l /dev",
        )
    else:
        yield ok(f"{len(gpus)} of /dev/nvidia*")


@check("cuda.library", "the driver's library", kind="cuda")
def library(case: Case) -> Iterator[Told]:
    """FAIL if the linker does not find libcuda.so.1."""
    found = linker.find(case.system, LIBRARY)
    if found:
        yield ok(found)
    else:
        yield fail(
            f"{LIBRARY} is not found by the linker",
            "in a container: docker run --gpus all; else reinstall the driver, run ldconfig",
        )


@check("cuda.torch", "the CUDA that torch is built for, with the driver", kind="cuda")
def torch(case: Case) -> Iterator[Told]:
    """FAIL if torch is built without CUDA, or for a major version that needs a newer driver."""
    version = case.system.version("torch")
    if not version:
        yield skip("there is no torch")
        return
    built_for = torch_cuda(case)
    if built_for == "":
        yield fail(
            f"torch {version} is built without CUDA",
            "install a torch for CUDA: https://pytorch.org/get-started/locally",
        )
        return
    if built_for is None:
        yield skip(f"torch {version} does not tell what it is built for")
        return
    here = driver_version(case)
    needed = CUDA_DRIVER.get(built_for.partition(".")[0])
    told = f"torch {version} is built for CUDA {built_for}"
    if not needed or not here:
        yield skip(f"{told}; " + ("no driver" if not here else f"not in the tables of {DATE}"))
    elif numbers(here) < numbers(needed):
        yield fail(
            f"{told}, which needs driver {needed}, found {here}",
            "upgrade the driver, or install a torch for an older CUDA",
        )
    else:
        yield ok(f"{told}; driver {here}")


@check("cuda.visible", "CUDA_VISIBLE_DEVICES", kind="cuda")
def visible(case: Case) -> Iterator[Told]:
    """FAIL if it hides the device that is wanted; WARN if it hides some after an entry that is
    none."""
    value = case.system.environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        yield ok("not set: all devices")
        return
    entries = [entry.strip() for entry in value.split(",")]
    fix = "unset CUDA_VISIBLE_DEVICES, or name devices: 0,1"
    if entries[0] in ("", "-1"):
        yield fail(f"{value!r} hides all devices", fix)
    elif len(entries) <= case.number:
        yield fail(f"{value!r} leaves no {case.device}", fix)
    elif "-1" in entries or "" in entries:
        yield warn(f"{value!r}: what follows the entry that is none is hidden", fix)
    else:
        yield ok(value)


def driver_version(case: Case) -> str:
    """As the kernel's module tells it; empty if there is none."""
    found = case.system.read("/sys/module/nvidia/version").strip()
    match = re.search(
        r"Kernel Module[^0-9]*([0-9]+(?:\.[0-9]+)+)",
        case.system.read("/proc/driver/nvidia/version"),
    )
    return found or (match[1] if match else "")


def torch_cuda(case: Case) -> str | None:
    """``12.4``; empty if torch has none, None if it does not tell."""
    for site in case.system.sites:
        text = case.system.read(f"{site}/torch/version.py")
        match = re.search(r"(?m)^cuda\s*(?::[^=]*)?=\s*(?:'([^']*)'|None)", text)
        if match:
            return match[1] or ""
    return None
