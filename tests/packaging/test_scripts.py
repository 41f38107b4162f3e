"""What a newcomer reads when something is missing, before anything has been built or installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["demo.sh", "test.sh"]


def run_script(name: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script from `folder`, with commands put into ``folder/bin`` before all others."""
    (folder / "bin").mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", ROOT / "scripts" / name],
        cwd=folder, env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", **env},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def put(folder: Path, name: str, text: str) -> None:
    """A command of that name."""
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrappers_that_fail_are_no_python(script: str, tmp_path: Path) -> None:
    for name in ["python", "python3", *(f"python3.{minor}" for minor in range(10, 15))]:
        put(tmp_path, name, f'echo "manager: {name}: command not found" >&2\nexit 127')
    result = run_script(script, tmp_path, PYTHON="")
    assert result.returncode == 1
    assert "needs Python 3.10 or later; found: manager: python3: command not found" in result.stderr
    assert "PYTHON=/path/to/python3" in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_named(script: str, tmp_path: Path) -> None:
    for name in ["python", "python3", *(f"python3.{minor}" for minor in range(10, 15))]:
        put(tmp_path, name, '[ "$1" = --version ] && echo "Python 3.9.18" && exit\nexit 1')
    result = run_script(script, tmp_path, PYTHON="")
    assert result.returncode == 1
    assert "needs Python 3.10 or later; found: Python 3.9.18" in result.stderr
    assert "get it: " in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_chosen_python_must_run(script: str, tmp_path: Path) -> None:
    result = run_script(script, tmp_path, PYTHON=str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert f"PYTHON={tmp_path}/nowhere is not a Python of 3.10 or later" in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_is_missing_is_said_at_once(script: str, tmp_path: Path) -> None:
    # A Python without venv and without headers, and no compiler.
    (tmp_path / "ensurepip.py").write_text("raise ImportError('not packaged')\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import sysconfig\nsysconfig.get_path = lambda *args, **kwargs: '/nowhere'\n"
    )
    result = run_script(
        script, tmp_path, PYTHON=sys.executable, PYTHONPATH=str(tmp_path), CC=str(tmp_path / "cc")
    )
    assert result.returncode == 1
    assert "no venv module in" in result.stderr
    assert "no Python headers (Python.h): " in result.stderr
    assert "no working C compiler: " in result.stderr
    assert "Traceback" not in result.stderr
