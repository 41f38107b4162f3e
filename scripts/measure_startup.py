"""Print what starting costs beyond the bare interpreter: ``import ckptfmt``, ``ckptfmt --help``.

    python scripts/measure_startup.py [ROUNDS]

The three are run in turn, so that a busy moment of the machine meets them all; medians are
compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "import ckptfmt": ["-c", "import ckptfmt"],
    "ckptfmt --help": ["-m", "ckptfmt", "--help"],
}
#: Seconds beyond the bare interpreter.
TARGETS = {"import ckptfmt": 0.15, "ckptfmt --help": 0.3}


def seconds(arguments: list[str]) -> float:
    """One run, from start to exit."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(rounds: int) -> None:
    """Measure, print a line for each and the whole as JSON."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        seconds(arguments)  # byte code is written, files are cached
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(found) for name, found in times.items()}
    bare = medians["bare interpreter"]
    for name, median in medians.items():
        beyond = f", {median - bare:.3f} s beyond it" if name in TARGETS else ""
        target = f" (target {TARGETS[name]} s)" if name in TARGETS else ""
        print(f"{name:<17} {median:.3f} s{beyond}{target}")
    version = sys.version.split()[0]
    print(json.dumps({"rounds": rounds, "median_seconds": medians, "python": version}))


if __name__ == "__main__":
    main(max(9, int(sys.argv[1])) if len(sys.argv) > 1 else 15)
