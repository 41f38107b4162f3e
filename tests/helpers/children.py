"""Python in a child process: for what ends it, what its environment decides, what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_child(
    code: str, *args: str | Path, timeout_s: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` with `args` as ``sys.argv[1:]``; `env` is added to the environment."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def run_cli(
    *args: str | Path, timeout_s: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the ``ckptfmt`` command."""
    return subprocess.run(
        [sys.executable, "-m", "ckptfmt", *map(str, args)],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
