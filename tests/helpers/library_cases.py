"""Cases for a child with transformers: many in each, as importing the library takes seconds."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tests.helpers import cuda_fake
from tests.helpers.fleet_python import FOUR_MISSING, FOUR_PYTHON, MISSING, PYTHON, ROOT
from tests.helpers.npu_cases import Case
from tests.helpers.simulator import environment as of_simulator
from tests.helpers.torch_npu import MISSING as NPU_MISSING
from tests.helpers.torch_npu import PYTHON as NPU_PYTHON

#: Of a child, with all its cases.
TIMEOUT_S = 300
PYTHONS = {
    "five": (PYTHON, MISSING), "four": (FOUR_PYTHON, FOUR_MISSING),
    "npu": (NPU_PYTHON, MISSING or NPU_MISSING),  # with the packages of "five"
    "cuda": (PYTHON, MISSING),  # and a fake CUDA
}  # fmt: skip
#: What the child says of where it ran.
TOLD = ("transformers", "torch", "peft", "accelerate")
#: Versions that ran, by Python: the summary of the tests has them.
RAN: dict[str, dict[str, str]] = {}


@cache
def run_all(which: str, cases: tuple[Case, ...]) -> tuple[dict[str, str], dict[Case, str]]:
    """Run cases in one child.

    Parameters
    ----------
    which : str
        ``five``, ``four``, ``npu`` or ``cuda``.

    Returns
    -------
    versions : dict of str to str
        That ran.
    outcomes : dict of Case to str
        What went wrong with each; empty for nothing.
    """
    with tempfile.TemporaryDirectory(prefix="ckptfmt-tests-") as folder:
        return _run(which, cases, folder)


def _run(
    which: str, cases: Sequence[Case], folder: str
) -> tuple[dict[str, str], dict[Case, str]]:
    asked = json.dumps([[c.function, dict(c.arguments)] for c in cases])
    done = subprocess.run(
        [PYTHONS[which][0], "-m", "tests.helpers.library_cases", folder], cwd=ROOT,
        env=environment_of(which, folder), input=asked, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    told = json.loads(done.stdout.splitlines()[-1])
    RAN[which] = told["versions"]
    return told["versions"], dict(zip(cases, told["outcomes"], strict=True))


def environment_of(which: str, folder: str) -> dict[str, str]:
    """Of a child with transformers, which keeps what it caches in a folder of the test."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    if which == "npu":
        environment = of_simulator(devices=2, memory="1G")
        paths.append(_packages(PYTHON))
    if which == "cuda":
        environment = cuda_fake.environment(devices=2, memory="1G")
        environment |= {"CASES_KIND": "cuda", "SIMULATOR_LIBRARY": cuda_fake.NAME}
    return environment | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1",
        "HF_HOME": folder, "OMP_NUM_THREADS": "1",  # of tiny models more are only slower
    }  # fmt: skip


def _packages(python: str) -> str:
    """Where an interpreter has them."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def _attempt(function: str, arguments: Mapping[str, object], folder: Path) -> str:
    module, _, name = function.partition(".")
    folder.mkdir()
    try:
        call = getattr(importlib.import_module(f"tests.transformers.cases.{module}"), name)
        call(folder, **arguments)
    except Exception:  # whatever it is, it is told
        return traceback.format_exc()
    return ""


def main() -> None:
    """Run the cases that stdin has; the last line of stdout tells of them."""
    folder = Path(sys.argv[1])
    if os.environ.get("CASES_KIND") == "cuda":
        cuda_fake.pretend()
    outcomes = [
        _attempt(function, arguments, folder / str(number))
        for number, (function, arguments) in enumerate(json.load(sys.stdin))
    ]
    versions = {name: version(name) for name in TOLD}
    print(json.dumps({"versions": versions, "outcomes": outcomes}))


if __name__ == "__main__":
    main()
