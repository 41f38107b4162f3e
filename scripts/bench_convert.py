"""Race ``convert`` against ``cp`` and fsync of the same bytes, in turn; leave a JSON record.

    python scripts/bench_convert.py --model qwen3b --rounds 9 \\
        --out docs/benchmarks/convert-qwen3b.json

The source is cold before each run and checked to be; targets are removed after it. A conversion is
timed from the call to its return, when everything is durable.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from bench.models import MODELS, make
from bench.record import describe

from ckptfmt.bench.cache_state import cached_share, establish

CONVERT = """
import json, resource, sys, time
import ckptfmt.conversion
if sys.argv[3] != "keep":
    import torch
began = time.perf_counter()
report = ckptfmt.convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3])
seconds = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": seconds, "nbytes": report.source_nbytes,
                  "cpu_seconds": usage.ru_utime + usage.ru_stime,
                  "peak_rss_nbytes": usage.ru_maxrss * 1024}))
"""


def run_copy(files: list[Path], target: Path) -> dict[str, Any]:
    """``cp`` into a new folder, then fsync of each file and the folder."""
    target.mkdir()
    began = time.perf_counter()
    command = ["cp", "--sparse=never", "--reflink=never", *map(str, files), str(target)]
    subprocess.run(command, check=True)
    subprocess.run(["sync", *map(str, target.iterdir()), str(target)], check=True)
    return {"seconds": time.perf_counter() - began, "nbytes": sum(f.stat().st_size for f in files)}


def run_convert(source: Path, target: Path, dtype: str) -> dict[str, Any]:
    """``ckptfmt.convert`` in a fresh process, imports outside the timer."""
    command = [sys.executable, "-c", CONVERT, str(source), str(target), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run the race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="moe")
    parser.add_argument("--scale", type=float, default=1.0, help="toy sizes for tests")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", nargs="+", default=["keep", "fp16"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    source = make(given.folder, given.model, given.scale)
    files = sorted(source.glob("*.safetensors"))
    target = given.folder / "bench-target"
    names = ["cp", *(f"convert-{dtype}" for dtype in given.dtypes)]
    runs: list[dict[str, Any]] = []
    for number in range(given.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            shutil.rmtree(target, ignore_errors=True)
            establish(files, "cold")
            if name == "cp":
                record = run_copy(files, target)
            else:
                record = run_convert(source, target, name.removeprefix("convert-"))
            record["source_cached_after"] = cached_share(files)
            runs.append({"round": number, "contender": name, **record})
            shutil.rmtree(target)
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    summary = {}
    for name in names:
        mine = [r for r in runs if r["contender"] == name]
        ratios = [
            c["seconds"] / r["seconds"]
            for r in mine
            for c in runs
            if c["contender"] == "cp" and c["round"] == r["round"]
        ]
        cached_after = statistics.median(r["source_cached_after"] for r in mine)
        summary[name] = {
            "n": len(mine),
            "gb_s": round(statistics.median(r["nbytes"] / r["seconds"] / 1e9 for r in mine), 3),
            "rate_to_cp": round(statistics.median(ratios), 3),
            "source_cached_after": round(cached_after, 3),
        }
    result = {
        "benchmark": "convert", "model": given.model, "scale": given.scale,
        **describe(given.folder), "summary": summary, "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
