"""A newcomer's first command, in a fresh copy of the project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.environments import copy_sources, run

pytestmark = pytest.mark.slow


def test_the_demo_shows_a_model_equal_to_its_source_and_runs_again(tmp_path: Path) -> None:
    script = copy_sources(tmp_path / "clone") / "scripts/demo.sh"
    first = run("bash", script, cwd=tmp_path, PYTHON=sys.executable)
    assert "building and installing ckptfmt" in first.stderr
    for line in (
        "tensors equal those of safetensors, bit for bit",
        "the embeddings equal those of the model loaded through safetensors, exactly",
        "104 tensors equal all-MiniLM-L6-v2",
    ):
        assert line in first.stdout
    # From another folder, and nothing is made or installed again.
    again = run("bash", script, cwd=Path("/"), PYTHON=sys.executable)
    assert "the embeddings equal those" in again.stdout
    assert again.stderr == ""
