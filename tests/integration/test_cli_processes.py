"""The command as a process of its own: what a terminal, a pipe and a shell get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import ckptfmt
from tests.helpers.children import run_cli


def test_a_whole_round_in_processes(tmp_path: Path, source: Path) -> None:
    for args in (
        ["convert", source, tmp_path / "x"], ["verify", tmp_path / "x", "--against", source],
        ["load", tmp_path / "x", "--json"], ["export", tmp_path / "x", tmp_path / "back"],
    ):  # fmt: skip
        child = run_cli(*args)
        assert child.returncode == 0, child.stderr
        assert "\x1b" not in child.stdout + child.stderr
    assert (tmp_path / "back" / "model.safetensors").exists()


def test_a_traceback_is_to_be_had_by_asking(tmp_path: Path) -> None:
    child = run_cli("inspect", tmp_path / "nowhere")
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr.count("\n") == 1
    child = run_cli("inspect", tmp_path / "nowhere", CKPTFMT_TRACEBACK="1")
    assert child.returncode == 1
    assert "Traceback" in child.stderr
    assert "NotFoundError" in child.stderr


def test_a_reader_that_stops_early_is_no_failure(tmp_path: Path) -> None:
    ckptfmt.convert({f"name{i:05d}": torch.ones(1) for i in range(3000)}, tmp_path / "x")
    shell = f"{sys.executable} -m ckptfmt inspect {tmp_path / 'x'} | head -1"
    child = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert child.stdout.startswith("checkpoint ")
    assert child.stderr == ""


def test_file_names_that_are_no_text(tmp_path: Path, source: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff")
    os.rename(source, odd)
    Path(odd, os.fsdecode(b"side\xfe.txt")).write_text("x")
    for args in (["convert", odd, odd + ".ckpt"], ["inspect", odd + ".ckpt"],
                 ["verify", odd + ".ckpt", "--against", odd]):  # fmt: skip
        child = run_cli(*args)
        assert child.returncode == 0, child.stderr
        assert "Traceback" not in child.stderr
