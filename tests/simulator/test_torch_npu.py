"""The unmodified torch_npu wheel imports and runs on the simulator."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.simulator import ROOT, environment
from tests.helpers.torch_npu import MISSING, PYTHON
from tests.simulator.goals import GOALS

pytestmark = pytest.mark.skipif(not PYTHON, reason=MISSING or "-")

#: Settings that differ in what torch_npu does with them; RC mode is a board's.
PLACES: dict[str, dict[str, Any]] = {
    "8.5.0 two devices": {"devices": 2},
    # torch_npu itself copies unpinned memory asynchronously, when asked for non_blocking.
    "7.0.0 no task queue": {"version": "7.0.0", "queue": "0", "unpinned": "sync"},
    "9.1.0 task queue 2": {"version": "9.1.0", "queue": "2"},
    "8.0.0 board": {"version": "8.0.0", "soc": "Ascend310B4"},
}


@functools.cache
def results(place: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What went wrong with each goal, one child tries them all; and the account at its end."""
    settings = dict(PLACES[place])
    queue = settings.pop("queue", "1")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        child = subprocess.run(
            [PYTHON, "-m", "tests.simulator.goals"], cwd=ROOT,
            env={
                **environment(memory="1G", report=report, **settings), "TASK_QUEUE_ENABLE": queue
            },
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr
        found = dict(json.loads(child.stdout[child.stdout.index("{") :]))
        return found, dict(json.loads(report.read_text()))


@pytest.mark.parametrize("goal", [goal.__name__ for goal in GOALS])
@pytest.mark.parametrize("place", PLACES)
def test_torch_npu(place: str, goal: str) -> None:
    assert results(place)[0][goal] == ""


@pytest.mark.parametrize("place", PLACES)
def test_it_ends_in_order(place: str) -> None:
    account = results(place)[1]
    assert account["calls"]["aclFinalize"] == 1
    assert account["violations"] == []
    assert account["wrong_thread_calls"] == 0
    assert account["live"]["registered"] == []
