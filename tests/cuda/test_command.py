"""``ckptfmt load`` to GPUs as a person meets it; and where torch is not for CUDA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import ckptfmt
from ckptfmt.cli import main
from tests.helpers.on_gpus import run_on_gpus


@pytest.fixture(scope="module")
def checkpoint(runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("cuda") / "model"
    ckptfmt.convert({f"layers.{i}.w": torch.randn(500, 700).bfloat16() for i in range(8)}, path)
    return path


def test_in_words(checkpoint: Path) -> None:
    done = run_on_gpus("load", checkpoint, "--device", "cuda:1")
    assert done.returncode == 0, done.stderr
    assert "cuda:1 is a Fake GPU 1, CUDA 13.0, driver for 13.1; " in done.stdout
    assert "\nstaging A: own huge pages registered with cudaHostRegister" in done.stdout
    assert "GPUDirect Storage: no nvidia-fs driver" in done.stdout
    assert done.stderr == ""  # bf16 is nothing to warn of


def test_in_json(checkpoint: Path) -> None:
    done = run_on_gpus("load", checkpoint, "--device", "auto", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [gpu["name"] for gpu in told["gpus"]] == ["cuda:0", "cuda:1"] == told["devices"]
    assert told["npus"] == []
    assert all(gpu["free_after_nbytes"] < gpu["free_before_nbytes"] for gpu in told["gpus"])


def test_a_trace(checkpoint: Path, tmp_path: Path) -> None:
    done = run_on_gpus("load", checkpoint, "--device", "cuda:0", "--trace", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "t.json").read_text())


def test_a_damaged_byte(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    part = copy / "part-00000.ckptfmt"
    data = bytearray(part.read_bytes())
    data[100_000] ^= 1
    part.write_bytes(data)
    done = run_on_gpus("load", copy, "--device", "cuda:0")
    assert done.returncode == 1
    assert "checksum" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_such_device(checkpoint: Path) -> None:
    done = run_on_gpus("load", checkpoint, "--device", "cuda:5")
    assert done.returncode == 1
    assert "cuda:5: torch finds 2 devices" in done.stderr


@pytest.mark.parametrize("device", ["cuda:0", "auto"])
def test_a_torch_without_cuda(
    device: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the one that runs the tests is; nothing falls back to the CPU."""
    from ckptfmt import devices

    monkeypatch.setattr(devices, "find_spec", lambda name: None)  # no torch_npu either
    result = CliRunner().invoke(main, ["load", str(checkpoint), "--device", device])
    assert result.exit_code == 1
    assert result.stdout == ""
    text = "a torch for CUDA" if device == "auto" else "is built for the CPU alone"
    assert text in result.stderr
