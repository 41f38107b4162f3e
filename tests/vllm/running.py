"""vLLM in child processes, and models for it.

To import vLLM takes several times as long as to load a tiny model with it and to ask it: one
process does that, and each run is a fork of it, in which no engine has been.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ckptfmt
from tests.helpers.fork_server import ForkServer
from tests.vllm.engine import FOUND

ROOT = Path(ckptfmt.__file__).parents[1]
MISSING = "" if find_spec("vllm") else "needs vLLM: scripts/test_vllm.sh installs it"

KINDS = ("llama", "qwen2", "opt", "mixtral")
DTYPES = ("float32", "bfloat16")
Job = dict[str, Any]


#: Cores of ranks; of two processes of pytest-xdist, each has engines of one rank on its own.
CORES = "1|0" if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else "0|1"


def settings(cache: Path, **more: str) -> dict[str, str]:
    """What vLLM needs on a CPU, without a network."""
    return {
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "VLLM_CPU_OMP_THREADS_BIND": CORES, "VLLM_LOGGING_COLOR": "0", **more,
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


@functools.cache
def forks(cache: Path) -> ForkServer:
    """The process that has imported vLLM. `tests.vllm.conftest` closes it."""
    return ForkServer(cache / "runs", None, ("vllm", "vllm.entrypoints.llm"), settings(cache))


def run(jobs: list[Job], cache: Path, **env: str) -> tuple[list[dict[str, Any]], str]:
    """What `tests.vllm.engine` found, and what vLLM logged; an engine is a process of its own."""
    code = "import sys; from tests.vllm.engine import main; main(sys.argv[1])"
    done = forks(cache).start(code, json.dumps(jobs), **env).wait(1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(FOUND))
    found: list[dict[str, Any]] = json.loads(line.removeprefix(FOUND))
    return found, done.stdout + done.stderr


def run_here(jobs: list[Job], cache: Path, **env: str) -> tuple[list[dict[str, Any]], str]:
    """The same, one engine after the other in a single process; only ranks are others."""
    return run(jobs, cache, VLLM_ENABLE_V1_MULTIPROCESSING="0", **env)
