"""The benchmark scripts at toy size: they run, check what they load, leave records and a report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fleet_python import MISSING, PYTHON

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def run_script(name: str, *args: str | Path, python: str = sys.executable) -> None:
    paths = (str(SCRIPTS.parent), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [python, SCRIPTS / name, *map(str, args)], capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_records_and_report(tmp_path: Path) -> None:
    common = ["--model", "moe", "--scale", "0.02", "--folder", tmp_path, "--rounds", "2"]
    names = ["ckptfmt", "ckptfmt-unverified", "ckptfmt-direct", "ckptfmt-mmap", "ckptfmt-folder",
             "safetensors-clone", "ceiling-direct", "ceiling-buffered",
             *(["fio"] if shutil.which("fio") else [])]  # fmt: skip
    load, convert = tmp_path / "load.json", tmp_path / "convert.json"
    states = ["--states", "cold", "warm", "half"]
    run_script("bench_load.py", *common, *states, "--contenders", *names, "--out", load)
    run_script("bench_convert.py", *common, "--out", convert)

    record = json.loads(load.read_text())
    assert [run for run in record["runs"] if "failed" in run] == []
    assert record["summary"]["ckptfmt cold"]["n"] == 2
    assert record["summary"]["ckptfmt cold"]["rate_to"]["ceiling-direct"] > 0
    assert {run["ran"]["engine"] for run in record["runs"] if "ran" in run} >= {"mmap"}
    assert set(json.loads(convert.read_text())["summary"]) == {"cp", "convert-keep", "convert-fp16"}

    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- numbers -->\nNot measured yet.\n<!-- /numbers -->\nb\n")
    run_script("bench_report.py", load, convert, "--docs", tmp_path / "docs", "--readme", readme)
    report = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "**ckptfmt**, verified" in report
    assert "convert-keep" in report
    for what in ("cold, verified ÷ C", "warm, safetensors folder ÷ checkpoint",
                 "cold, verified ÷ the fastest of 1 other peers", "half-cached",
                 "convert ÷ `cp`"):  # fmt: skip
        assert f"\n| {what}" in report
    assert (tmp_path / "docs" / "benchmarks" / "load-cold.svg").read_text().startswith("<svg")
    assert "Not measured" not in readme.read_text()
    assert "| moe, cold | **" in readme.read_text()


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_model_beside_from_pretrained(tmp_path: Path) -> None:
    record = tmp_path / "transformers.json"
    run_script("bench_transformers.py", "--scale", "0.03", "--rounds", "1", "--folder", tmp_path,
               "--loaders", "ckptfmt", "from-pretrained", "--out", record,
               python=PYTHON)  # fmt: skip
    found = json.loads(record.read_text())
    names = [run["contender"] for run in found["runs"]]
    assert names == ["ckptfmt", "from-pretrained"]
    assert found["summary"]["ckptfmt cold"]["rate_to"]["from-pretrained"] > 0
    assert found["versions"]["transformers"]
    run_script("bench_report.py", record, "--docs", tmp_path / "docs", "--readme", tmp_path / "no")
    report = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| **`load_model`**, verified | " in report
    for what in ("time ÷ `from_pretrained`", "peak memory ÷ model"):
        assert f"\n| a model, cold: {what} | llama | ≤ " in report


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_a_streamed_conversion_beside_its_client(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    pytest.importorskip("modelscope_hub", reason="needs the extra [hub]")
    record = tmp_path / "hub.json"
    run_script("bench_hub.py", "--hub", hub, "--nbytes", "4000000", "--rounds", "2",
               "--shares", "1", "--folder", tmp_path, "--out", record)  # fmt: skip
    found = json.loads(record.read_text())
    assert [run["round"] for run in found["runs"]] == [0, 1]
    assert found["summary"]["1"]["rate_to_ideal"] > 0
    assert found["summary"]["1"]["peak_beyond_output_in_shards"] <= 1.1
