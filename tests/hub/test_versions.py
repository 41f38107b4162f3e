"""The same tests with huggingface_hub of the other major version: another transport below it.

modelscope_hub has none yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_other_major_version_of_huggingface_hub(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    major = int(version("huggingface_hub").partition(".")[0])
    wanted, other = ("huggingface_hub<2", 1) if major > 1 else ("huggingface_hub>=2", 2)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path / "site", wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"{wanted} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    asked = subprocess.run(
        [sys.executable, "-c", "import huggingface_hub as h; print(h.__version__)"],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    assert asked.stdout.startswith(f"{other}.")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "huggingface", Path(__file__).parent],
        capture_output=True, text=True, check=False, env=env, cwd=ROOT,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
