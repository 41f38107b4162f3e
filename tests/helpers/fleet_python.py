"""The Python that has ray, peft and transformers: an environment of its own, so that what these
bring along decides about no other test."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_python() -> tuple[str, str]:
    """The interpreter, and if there is none, why.

    ``FLEET_PYTHON`` names it, and ``FLEET_MISSING`` says why there is none: scripts/test.sh sets
    one of them. Else it is the one that runs the tests, if it has all three, or the script's
    ``.venv-fleet``.
    """
    named = os.environ.get("FLEET_PYTHON", "")
    if named:
        return named, ""
    reason = os.environ.get("FLEET_MISSING", "")
    if reason:
        return "", reason
    if all(find_spec(name) for name in ("ray", "peft", "transformers")):
        return sys.executable, ""
    own = ROOT / ".venv-fleet" / "bin" / "python"
    if own.exists():
        return str(own), ""
    return "", "ray, peft and transformers are not installed: scripts/test.sh does that"


PYTHON, MISSING = find_python()
