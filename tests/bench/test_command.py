"""``ckptfmt bench`` as it is met: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckptfmt.bench import cache_state
from ckptfmt.cli import main
from ckptfmt.errors import FileError
from tests.helpers.simulator import ROOT

pytest.importorskip("torch", reason="needs torch")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def report(measured: Path) -> dict[str, Any]:
    others = "safetensors,safetensors-clone"
    result = run(measured, "--warm", "--repeat", "1", "--vs", others, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_report_has_all_that_is_promised(report: dict[str, Any], measured: Path) -> None:
    assert report["path"] == str(measured)
    assert (report["device"], report["state"], report["repeat"]) == ("cpu", "warm", 1)
    assert report["checkpoint"] == {"nbytes": 96 << 20, "tensors": 24, "partitions": 2}
    load = report["load"]
    assert load["gb_s"] > 0
    assert load["first_gb_s"] > 0
    assert load["runs_gb_s"] == pytest.approx([load["gb_s"]])  # a median of one is computed anew
    assert load["stats"]["verified_nbytes"] == 96 << 20
    kinds = {one["kind"] for one in report["ceilings"]}
    assert {"cache", "checksum", "memory"} <= kinds
    assert len(report["limit"]) == 5
    assert 0 < report["limit"]["reached"] < 3
    assert "page cache" in report["stages"]
    assert "reads-verified" in {one["id"] for one in report["ceilings"]}
    told = {(gain["setting"], gain["value"]) for gain in report["gains"]}
    assert told >= {("verify", "off"), ("reads", "direct")}
    assert all(g["measured_gain"] is None for g in report["gains"])
    assert report["best"] is None


def test_contenders_load_the_same_tensors(report: dict[str, Any], measured: Path) -> None:
    assert [c["id"] for c in report["contenders"]] == ["safetensors", "safetensors-clone"]
    assert all(c["gb_s"] > 0 and c["nbytes"] == 96 << 20 for c in report["contenders"])
    # What was exported is gone.
    assert [path.name for path in measured.parent.iterdir()] == [measured.name]


def test_time_line_covers_the_load(report: dict[str, Any]) -> None:
    timeline = report["timeline"]
    events = [event for worker in timeline["workers"] for event in worker["events"]]
    assert sum(e[3] for e in events if e[2] in ("read", "buffered read")) >= 96 << 20
    assert sum(e[3] for e in events if e[2] == "verify") == 96 << 20
    assert all(0 <= e[0] <= e[1] <= timeline["seconds"] + 1e-6 for e in events)
    steps = report["throughput"]
    width = steps[0][0]
    assert sum(rate for _, rate in steps) * width == pytest.approx(96 * 1.048576e-3, rel=0.05)


@pytest.mark.usefixtures("on_disk")
def test_a_person_is_told_in_lines_and_pictures(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    result = run(measured, "--cold", "--repeat", "1", "--no-verify", "--tune", "--report", page)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("to cpu, cold, medians of 1")
    assert lines[1].startswith("limited by ")
    assert any("<- the limit" in line for line in lines) or "GB/s is" in lines[1]
    assert lines[-2].startswith("best: ")
    assert lines[-1] == f"wrote {page}"
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "worker 0" in text
    assert str(measured) in text


def test_other_loads_are_traced_and_counted_as_before(measured: Path, tmp_path: Path) -> None:
    """A trace of a load to the CPU, which bench's time line is made from."""
    trace = tmp_path / "trace.json"
    result = CliRunner().invoke(main, ["load", str(measured), "--trace", str(trace)])
    assert result.exit_code == 0, result.output
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert "checksum" in names


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--vs", "nobody"], 2, "--vs nobody: expected some of safetensors"),
        (["--device", "auto"], 2, "bench looks at one device"),
        (["--device", "gpu"], 2, "device is 'gpu'"),
        (["--report", "/nowhere/bench.html"], 2, "there is no folder /nowhere"),
        (["--vs", "fastsafetensors"], 1, "pip install fastsafetensors"),
        (["--source", "/"], 2, "none is named (see --vs)"),
        (["--report", "/"], 2, "--report /: cannot be written there"),
    ],
)
def test_misuse(options: list[str], code: int, words: str, measured: Path) -> None:
    result = run(measured, *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr


def test_other_tensors_are_no_contender(measured: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "others"
    folder.mkdir()
    save_file({"layers.0.weight": torch.zeros(3)}, folder / "model.safetensors")
    options = ("--vs", "safetensors", "--source", folder)
    result = run(measured, "--warm", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tensor 'layers.0.weight' is F32 [3] there, and U8 [4194304] in" in result.stderr
    (folder / "model.safetensors").unlink()
    torch.save({"layers.0.weight": torch.zeros(3)}, folder / "pytorch_model.bin")
    result = run(measured, "--warm", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds weights of torch, not safetensors" in result.stderr


def test_small_and_empty_tensors_are_measured(tmp_path: Path) -> None:
    import torch

    import ckptfmt

    few = {"empty": torch.empty(0, 3), "one": torch.ones(()), "bf16": torch.ones(7).bfloat16()}
    ckptfmt.convert(few, tmp_path / "few.ckpt")
    result = run(tmp_path / "few.ckpt", "--warm", "--repeat", "1")
    assert result.exit_code == 0, result.output
    assert "so short a one says little" in result.stdout
    ckptfmt.convert({"empty": torch.empty(0, 3)}, tmp_path / "none.ckpt")
    result = run(tmp_path / "none.ckpt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "have no bytes to be loaded" in result.stderr


@pytest.mark.usefixtures("on_disk")
def test_half_of_the_files_in_the_page_cache_is_no_state(measured: Path) -> None:
    cache_state.establish(sorted(measured.glob("part-*")), "half")
    result = run(measured)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is in the page cache (say --cold or --warm)" in result.stderr


def test_what_was_exported_is_removed_when_it_is_ended(measured: Path) -> None:
    command = [sys.executable, "-m", "ckptfmt", "bench", measured, "--warm", "--vs", "safetensors",
               "--repeat", "99"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        while not list(measured.parent.glob(".bench-*/safetensors/*.safetensors")):
            assert child.poll() is None
            time.sleep(0.01)
        child.terminate()
        assert child.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in measured.parent.iterdir()] == [measured.name]


def test_no_checkpoint(tmp_path: Path) -> None:
    result = run(tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "none" in result.stderr


def test_a_state_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    """Files of a file system in memory are never cold."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or os.statvfs(memory).f_bavail * 4096 < 256 << 20:
        pytest.skip("no /dev/shm with room")
    file = memory / f"ckptfmt-{os.getpid()}"
    try:
        file.write_bytes(bytes(65 << 20))
        with pytest.raises(FileError, match="cannot be had cold: 100% of the files") as raised:
            cache_state.establish([file], "cold")
        assert "file system is memory" in str(raised.value.hint)
        assert cache_state.establish([file], "warm") == 1.0
    finally:
        file.unlink(missing_ok=True)


@pytest.mark.usefixtures("on_disk")
def test_states_are_established_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(8 << 20))
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert cache_state.establish([file], "warm") == 1.0
    cold = cache_state.establish([file], "cold")
    assert cold is not None
    assert cold < 0.01
    half = cache_state.establish([file], "half")
    assert half == pytest.approx(0.5, abs=0.26)
