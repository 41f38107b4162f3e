"""What is no regular file is refused, and not waited for: a pipe has no end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ckptfmt
from tests.helpers.children import run_cli


@pytest.mark.parametrize("name", ["ckptfmt.json", "SHA256SUMS", "part-00000.ckptfmt"])
def test_a_pipe_in_place_of_a_file_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)
    # In a child with a limit of time: it is the waiting that is tested.
    child = run_cli("load", checkpoint, timeout_s=60)
    assert child.returncode == 1
    assert child.stderr == f"ckptfmt: {checkpoint / name}: not a regular file\n"


def test_verify_reports_a_pipe_in_place_of_a_sidecar(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    child = run_cli("verify", checkpoint, timeout_s=60)
    assert child.returncode == 1
    assert child.stderr == f"ckptfmt: {checkpoint}: config.json: not a regular file\n"


def test_a_folder_in_place_of_the_index_is_refused(checkpoint: Path) -> None:
    (checkpoint / "ckptfmt.json").unlink()
    (checkpoint / "ckptfmt.json").mkdir()
    with pytest.raises(ckptfmt.FormatError, match=r"ckptfmt\.json: not a regular file"):
        ckptfmt.open(checkpoint)
