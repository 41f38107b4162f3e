"""A device brought up to see whether it can be: in a child, which may end as it likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

#: Bringing a device up takes seconds; what takes minutes hangs.
TIMEOUT_S = 120
#: The same modules as this process has, wherever it was started.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from ckptfmt.doctor.attempt_child import main; main(*sys.argv[1:])"
)


@dataclass(slots=True)
class Attempt:
    """What became of bringing up a device.

    Attributes
    ----------
    steps : dict
        By name, of those that were made: ``import``, ``device``, ``staging``, ``link``. One that
        failed has ``error`` and ``hint``, and is the last; but for ``library``, which follows an
        import that failed.
    said : str
        What was printed meanwhile.
    ended : str
        How the child ended, if not by itself.
    """

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: str = ""
    ended: str = ""

    @property
    def run_mode(self) -> str:
        """``EP`` or ``RC``; empty for a GPU, or if it did not come that far."""
        return str(self.steps.get("device", {}).get("run_mode", ""))

    @property
    def works(self) -> bool:
        """Whether bytes went there and back."""
        return "error" not in self.steps.get("staging", {"error": ""})

    @property
    def registers(self) -> bool:
        """Whether host memory of our own was registered."""
        return self.steps.get("staging", {}).get("letter") in ("A", "B")

    @property
    def library(self) -> str:
        """The libascendcl.so that was loaded; empty if it did not come that far."""
        return str(self.steps.get("device", {}).get("library", ""))

    def free_nbytes(self) -> int | None:
        """Memory that the device has to give, if it tells."""
        found = self.steps.get("device", {}).get("free_nbytes")
        return int(found) if found is not None else None


def bring_up(device: str, checkpoint: str | None) -> Attempt:
    """Import torch for a device, bring the device up, find its way to stage, copy 64 MiB to it.

    Parameters
    ----------
    device : str
        ``"npu:0"``.
    checkpoint : str or None
        Direct reads are tried on one of its files, else on one of this package's.
    """
    command = [sys.executable, "-c", _CODE, json.dumps(sys.path), device, checkpoint or ""]
    found = Attempt()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S, check=False, env=dict(os.environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        found.ended = f"it did not end within {TIMEOUT_S} s"
        output, found.said = _text(error.stdout), _text(error.stderr)
    else:
        output, found.said = done.stdout, done.stderr
        if done.returncode < 0:
            found.ended = f"signal {-done.returncode} ended it"
        elif done.returncode > 0:
            found.ended = f"it ended with exit code {done.returncode}"
    found.steps = steps_in(output)
    return found


def steps_in(output: str) -> dict[str, dict[str, Any]]:
    """What the child tells of its steps; other lines are not its own."""
    told = [json.loads(line) for line in output.splitlines() if line.startswith('{"step": ')]
    return {step.pop("step"): step for step in told}


def _text(output: str | bytes | None) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""
