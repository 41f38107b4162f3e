"""doctor on GPUs of the fake CUDA. Its child would have none: the steps are made in the process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.on_gpus import run_on_gpus
from tests.helpers.simulator import BuildError

PROGRAM = """
import json, os, tempfile
from ckptfmt.doctor import attempt, attempt_child
from ckptfmt.doctor.examination import run

def bring_up(device, checkpoint):
    with tempfile.TemporaryFile("w+") as told:
        attempt_child.Steps(told.fileno()).run(device, checkpoint or "")
        told.seek(0)
        return attempt.Attempt(attempt.steps_in(told.read()))

attempt.bring_up = bring_up
print(json.dumps(run({device!r}).to_dict()))
"""


def examined(device: str, **settings: Any) -> dict[str, dict[str, Any]]:
    try:
        child = run_on_gpus("-", stdin=PROGRAM.format(device=device), **settings)
    except BuildError as error:
        pytest.skip(str(error))
    assert child.returncode == 0, child.stderr
    return {f["check"]: f for f in json.loads(child.stdout.splitlines()[-1])["findings"]}


def test_a_gpu_that_works() -> None:
    pytest.importorskip("torch", reason="needs torch")
    found = examined("cuda:1")
    told = found["probe.device"]["found"]
    assert told.startswith("cuda:1 is a ")
    assert ", CUDA " in told
    assert found["probe.staging"]["found"].startswith("strategy A: own huge pages registered with ")
    assert found["probe.link"]["level"] == "OK"
    assert found["probe.link"]["found"].endswith("/s")
    assert found["device.nodes"]["level"] == "SKIP"
    # There is no driver of NVIDIA's here, which does not matter to a GPU that works.
    levels = {name: f["level"] for name, f in found.items() if name.startswith("cuda.")}
    assert "FAIL" not in levels.values()


def test_a_gpu_that_is_not_there() -> None:
    pytest.importorskip("torch", reason="needs torch")
    found = examined("cuda:7")
    assert found["probe.device"]["level"] == "FAIL"
    assert found["probe.device"]["found"].startswith("cuda:7: torch finds 2 devices")
    assert "nvidia-smi" in found["probe.device"]["fix"]
    assert found["probe.staging"]["level"] == "SKIP"
