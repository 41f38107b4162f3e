"""The Python that has torch_npu: an environment of its own, as `import torch` imports it too."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_python() -> tuple[str, str]:
    """The interpreter, and if there is none, why.

    ``NPU_PYTHON`` names it, and ``NPU_MISSING`` says why there is none: scripts/test.sh sets one of
    them. Else it is the one that runs the tests, if it has torch_npu, or the script's
    ``.venv-npu``.
    """
    named = os.environ.get("NPU_PYTHON", "")
    if named:
        return named, ""
    reason = os.environ.get("NPU_MISSING", "")
    if reason:
        return "", reason
    if find_spec("torch_npu") is not None:
        return sys.executable, ""
    own = ROOT / ".venv-npu" / "bin" / "python"
    if own.exists():
        return str(own), ""
    return "", "torch_npu is not installed: scripts/test.sh does that"


PYTHON, MISSING = find_python()
