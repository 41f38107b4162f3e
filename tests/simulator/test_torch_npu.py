"""The unmodified torch_npu wheel imports and runs on the simulator."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.simulator import ROOT, environment
from tests.simulator.goals import GOALS

pytestmark = pytest.mark.skipif(
    find_spec("torch_npu") is None or find_spec("torch") is None,
    reason="needs torch_npu (pip install torch-npu==2.13.0)",
)

#: Settings that differ in what torch_npu does with them; RC mode is a board's.
PLACES: dict[str, dict[str, Any]] = {
    "8.5.0 two devices": {"devices": 2},
    # torch_npu itself copies unpinned memory asynchronously, when asked for non_blocking.
    "7.0.0 no task queue": {"version": "7.0.0", "queue": "0", "unpinned": "sync"},
    "9.1.0 task queue 2": {"version": "9.1.0", "queue": "2"},
    "8.0.0 board": {"version": "8.0.0", "soc": "Ascend310B4"},
}


@functools.cache
def results(place: str) -> dict[str, str]:
    """What went wrong with each goal; one child tries them all."""
    settings = dict(PLACES[place])
    queue = settings.pop("queue", "1")
    child = subprocess.run(
        [sys.executable, "-m", "tests.simulator.goals"], cwd=ROOT,
        env={**environment(memory="1G", **settings), "TASK_QUEUE_ENABLE": queue},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return dict(json.loads(child.stdout[child.stdout.index("{") :]))


@pytest.mark.parametrize("goal", [goal.__name__ for goal in GOALS])
@pytest.mark.parametrize("place", PLACES)
def test_torch_npu(place: str, goal: str) -> None:
    assert results(place)[goal] == ""


def test_it_loads_itself_with_torch(tmp_path: Path) -> None:
    code = "import torch; print(torch.npu.device_count()); torch.zeros(3, device='npu')"
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment(devices=8, report=tmp_path / "report"),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "8"
    found = json.loads((tmp_path / "report").read_text())
    assert found["calls"]["aclFinalize"] == 1
    assert found["wrong_thread_calls"] == 0
