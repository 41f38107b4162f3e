"""A checkpoint to be measured, a slow disk for it, and the command in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from ckptfmt.bench import cache_state
from ckptfmt.errors import FileError
from tests.helpers.simulator import ROOT

Report = dict[str, Any]


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 96 MiB in two partitions."""
    torch = pytest.importorskip("torch", reason="needs torch")
    model = {f"layers.{i}.weight": torch.full((4 << 20,), i, dtype=torch.uint8) for i in range(24)}
    target = tmp_path_factory.mktemp("measured") / "model.ckpt"
    ckptfmt.convert(model, target, partition_size="64MiB")
    return target


@pytest.fixture
def on_disk(measured: Path) -> None:
    """Skip where its files cannot leave the page cache."""
    try:
        cache_state.establish(sorted(measured.glob("part-*")), "cold")
    except FileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``paced_reads.so``, built from tests/fakes."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("fakes") / "paced_reads.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library,
         ROOT / "tests" / "fakes" / "paced_reads.c", "-ldl", "-pthread"],
        check=True,
    )  # fmt: skip
    return library


@pytest.fixture
def bench(measured: Path) -> Callable[..., Report]:
    """Run ``ckptfmt bench`` with options and variables; its report."""

    def run(*options: str, python: str = sys.executable, **variables: str | Path) -> Report:
        given = {name: str(value) for name, value in variables.items()}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **given}
        done = subprocess.run(
            [python, "-m", "ckptfmt", "bench", measured, "--json", *options],
            capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: Report = json.loads(done.stdout)
        return found

    return run
