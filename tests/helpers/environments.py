"""Copies of the sources and bare environments, for tests that build and install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What a build, the demo and the tests need; nothing that was built before.
SOURCES = [
    "ckptfmt", "docs", "samples", "scripts", "tests", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "MANIFEST.in", "README.md", "pyproject.toml", "setup.py",
]  # fmt: skip


def copy_sources(target: Path) -> Path:
    """A copy of the project as a fresh clone would be."""
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed, with none of the environment of this Python."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **env}, capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


def bare_environment(folder: Path, *packages: str | Path) -> Path:
    """An environment with these packages and what they depend on; its folder of commands."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    if packages:
        run(folder / "bin/python", "-m", "pip", "install", "--quiet", *packages, cwd=folder.parent)
    return folder / "bin"
