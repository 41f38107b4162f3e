"""Run a command of ckptfmt, or Python from stdin, in a process that has GPUs of the fake CUDA.

    python -m tests.helpers.on_gpus load PATH --device cuda:0
    python -m tests.helpers.on_gpus - < program.py
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers import cuda_fake
from tests.helpers.simulator import ROOT


def run_on_gpus(
    *arguments: object, stdin: str = "", cwd: object = None, **settings: str | float
) -> subprocess.CompletedProcess[str]:
    """From a test: the same in a child."""
    env = cuda_fake.environment(**{"devices": 2, "memory": "1G", **settings})
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "tests.helpers.on_gpus", *map(str, arguments)], cwd=str(cwd or "."),
        env=env, input=stdin, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def main() -> None:
    """The child's end."""
    cuda_fake.pretend()
    if sys.argv[1:] == ["-"]:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        return
    from ckptfmt.cli import main as command

    command(sys.argv[1:])


if __name__ == "__main__":
    main()
