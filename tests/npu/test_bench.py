"""The benchmark of loads to NPUs at toy size: it runs, checks what it loads, leaves a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckptfmt import staging
from tests.helpers.torch_npu import PYTHON, ROOT


@pytest.mark.slow
@pytest.mark.alone
def test_record(runtime: None, tmp_path: Path) -> None:
    out = tmp_path / "npu.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_npu.py", "--model", "moe", "--scale", "0.05",
         "--folder", tmp_path, "--rounds", "2", "--link", "0.2", "--pool", str(16 << 20),
         "--out", out],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert PYTHON
    record = json.loads(out.read_text())
    assert [run for run in record["runs"] if "failed" in run] == []
    assert len(record["runs"]) == 2 * 7
    summary = record["summary"]
    assert json.loads(done.stdout) == summary
    assert all(found["n"] == 2 for found in summary.values())
    for kind in ("paced", "open", "two"):
        assert summary[kind]["ratio"] > 0
        assert summary[kind]["met"] in (True, False)
    # A paced link cannot be faster than it is.
    assert summary["paced"]["ratio_min"] >= 0.99
    assert summary["paced"]["bottlenecks"] == ["device"]
    assert summary["memory"]["own_peak_nbytes"] > 0
    assert summary["board"]["met"]
    assert summary["board"]["staging"] == [f"E: {staging.WHAT['npu']['E']} (asked for)"]
    for run in record["runs"]:
        assert not any(run.get("account", {}).values())

    report = ROOT / "scripts" / "bench_report.py"
    subprocess.run([sys.executable, report, out, "--docs", tmp_path, "--readme", tmp_path / "none"],
                   check=True, timeout=60)  # fmt: skip
    text = (tmp_path / "benchmarks.md").read_text()
    assert "are simulated" in text
    assert "two slow simulated links" in text
