"""The GPU's benchmark at toy size, on the fake CUDA: it runs, checks bytes, leaves a record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import cuda_fake
from tests.helpers.simulator import ROOT


@pytest.mark.slow
def test_record(runtime: None, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    env = cuda_fake.environment(devices=1, memory="2G")
    paths = (ROOT / "tests/fakes/cuda/site", ROOT, os.environ.get("PYTHONPATH", ""))
    env["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths if str(path))
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_gpu.py", "--no-build", "--folder", tmp_path,
         "--layers", "1", "--cold-layers", "1", "--shrink", "256", "--rounds", "2", "--loads", "3",
         "--contenders", "ckptfmt", "ckptfmt-unverified", "--out", out],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert [run for run in record["runs"] if "failed" in run] == []
    assert record["checks"]["reuse"]["wrong"] == 0
    assert record["checks"]["reuse"]["loads"] == 3
    compared = [run for run in record["runs"] if run["contender"] == "compare"]
    assert [run["wrong"] for run in compared] == [0, 0]
    assert all(run["compared"] == 12 for run in compared)
    for state in ("warm", "cold"):
        assert record["summary"][f"ckptfmt {state}"]["n"] == 2
        assert record["summary"][f"ckptfmt {state}"]["rate_to"]["ckptfmt-unverified"] > 0

    report = ROOT / "scripts" / "bench_report.py"
    subprocess.run([sys.executable, report, out, "--docs", tmp_path, "--readme", tmp_path / "none"],
                   check=True, timeout=60)  # fmt: skip
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| 3 loads into memory just used: wrong | llama8b | ≤ 0 | 0.00 |" in text
    assert "| cold, verified ÷ C, `O_DIRECT`, to host memory |" in text
