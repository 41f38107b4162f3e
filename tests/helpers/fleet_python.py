"""The Pythons that have ray, peft and transformers: environments of their own, so that what these
bring along decides about no other test. One has transformers 5, the other its last 4."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_python(name: str, *, ours: bool) -> tuple[str, str]:
    """The interpreter, and if there is none, why.

    Parameters
    ----------
    name : str
        ``FLEET_PYTHON`` in the environment names it if this is ``fleet``, and ``FLEET_MISSING``
        says why there is none: scripts/test.sh sets one of them. Else it is the script's
        ``.venv-fleet``.
    ours : bool
        Whether the Python that runs the tests is one.
    """
    named = os.environ.get(f"{name.upper()}_PYTHON", "")
    if named:
        return named, ""
    reason = os.environ.get(f"{name.upper()}_MISSING", "")
    if reason:
        return "", reason
    if ours:
        return sys.executable, ""
    own = ROOT / f".venv-{name}" / "bin" / "python"
    if own.exists():
        return str(own), ""
    return "", "ray, peft and transformers are not installed: scripts/test.sh does that"


_HERE = all(find_spec(name) for name in ("ray", "peft", "transformers"))
PYTHON, MISSING = find_python("fleet", ours=_HERE)
FOUR_PYTHON, FOUR_MISSING = find_python("four", ours=False)
