"""vLLM in child processes, and models for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ckptfmt
from tests.vllm.engine import FOUND

ROOT = Path(ckptfmt.__file__).parents[1]
MISSING = "" if find_spec("vllm") else "needs vLLM: scripts/test_vllm.sh installs it"

KINDS = ("llama", "qwen2", "opt", "mixtral")
DTYPES = ("float32", "bfloat16")
Job = dict[str, Any]


def settings(cache: Path, **more: str) -> dict[str, str]:
    """What vLLM needs on a CPU, without a network."""
    return {
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_LOGGING_COLOR": "0", **more,
    }  # fmt: skip


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The whole environment of such a child."""
    return {**os.environ, **settings(cache, **more)}


def make_models(folder: Path, wanted: list[tuple[str, str, int]]) -> None:
    """``KIND-DTYPE-SEED`` as safetensors, and the same with ``.ckpt``, converted."""
    asked = [(str(folder / name(*one)), *one) for one in wanted]
    child = subprocess.run(
        [sys.executable, "-m", "tests.vllm.models", json.dumps(asked)],
        env=environment(folder), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    for path, *_ in asked:
        ckptfmt.convert(path, f"{path}.ckpt")


def name(kind: str, dtype: str, seed: int) -> str:
    """Of a model's folder."""
    return f"{kind}-{dtype}-{seed}"


def run(jobs: list[Job], cache: Path, **env: str) -> tuple[list[dict[str, Any]], str]:
    """What `tests.vllm.engine` found, and what vLLM logged."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.vllm.engine", json.dumps(jobs)],
        env=environment(cache, **env), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    (line,) = (line for line in child.stdout.splitlines() if line.startswith(FOUND))
    found: list[dict[str, Any]] = json.loads(line.removeprefix(FOUND))
    return found, child.stdout + child.stderr


def run_here(jobs: list[Job], cache: Path, **env: str) -> tuple[list[dict[str, Any]], str]:
    """The same, one engine after the other in a single process."""
    return run(jobs, cache, VLLM_ENABLE_V1_MULTIPROCESSING="0", **env)
