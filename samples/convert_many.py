"""Convert every model folder below a folder; safe to interrupt and to run again.

    python samples/convert_many.py MODELS TARGETS

TARGETS/NAME.ckpt is made of MODELS/NAME. What is there already is left alone, what was interrupted
goes on where it stopped, and one broken model does not keep the others from being converted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ckptfmt


def convert_one(source: Path, target: Path) -> str:
    """Convert or go on converting one model; a word about how it went."""
    if target.exists():
        return "is there already"
    report = ckptfmt.convert(source, target, resume=True)  # from the start if there is nothing yet
    problems = ckptfmt.verify(target).problems
    if problems:
        raise ckptfmt.FormatError(f"{target}: {problems[0]}")
    return f"{report.nbytes} bytes in {len(report.plan.partitions)} partitions"


def main(models: str, targets: str) -> int:
    """Convert all; the number of models that failed."""
    Path(targets).mkdir(parents=True, exist_ok=True)
    failed = 0
    for source in sorted(path for path in Path(models).iterdir() if path.is_dir()):
        try:
            print(f"{source.name}: {convert_one(source, Path(targets) / f'{source.name}.ckpt')}")
        except ckptfmt.CkptError as error:
            failed += 1
            print(f"{source.name}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
