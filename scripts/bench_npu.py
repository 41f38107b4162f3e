"""Race loads to simulated NPUs against their links and against the CPU; leave a JSON record.

    python scripts/bench_npu.py --model qwen3b --rounds 5 --out docs/benchmarks/npu-qwen3b.json

It says nothing of NPUs: links and devices are simulated (docs/simulator.md), copies are memcpy on
the processors that load. It says how near the loader comes to the slower of disk and link. Every
round runs each kind once, the order reversed every other round, in fresh processes:

* cpu: a cold load to the CPU.
* open: to one device whose link takes what comes.
* paced: a link slower than the disk; the time is compared with bytes ÷ rate.
* one, two: the model on one device, and half of it on each of two, with slow links.
* memory: host memory while loading, sampled.
* board: the same where the device's memory is the host's (RC mode), beyond the model's.

Needs torch_npu: in this Python, or in the one that NPU_PYTHON names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bench.models import MODELS, make
from bench.record import describe

from tests.helpers.simulator import environment
from tests.helpers.torch_npu import MISSING, PYTHON

KINDS = ("cpu", "open", "paced", "one", "two", "memory", "board")
#: What is sampled, and how many bytes of the pool belong to it.
SAMPLED = {"memory": 1, "board": 0}
#: Beside the pool, what a load may take of the host.
MORE_NBYTES = 64 << 20
#: What is asked for: at most, or at least.
ASKED = {"paced": 1.05, "open": 0.95, "two": 1.9}


def halves(path: Path) -> dict[str, str]:
    """A map that gives each of two devices half of the bytes, tensor by tensor."""
    import ckptfmt

    with ckptfmt.open(path) as checkpoint:
        sizes = {entry.name: entry.nbytes for entry in checkpoint.index.tensors}
    share: dict[str, str] = {"": "npu:0"}
    done, total = 0, sum(sizes.values())
    for name, nbytes in sizes.items():
        if 2 * done >= total:
            share[name] = "npu:1"
        done += nbytes
    return share


def run_child(given: dict[str, Any], version: str, memory: str) -> dict[str, Any]:
    """One load in a fresh process; the record, or why there is none."""
    if given["kind"] == "board":
        env = environment(version, soc="Ascend310B4", memory=memory, backing="anonymous")
    else:
        env = environment(version, devices=2, memory=memory, backing="memfd")
    paths = (str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if given["device"] == "cpu":
        env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    command = [PYTHON, str(HERE / "bench" / "npu_child.py"), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return {"kind": given["kind"], "failed": last[0][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def requests(
    path: Path, sums: Path, link: float, options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each kind's child is asked to do."""
    common = {"path": str(path), "sums": str(sums), "options": options}
    one = {"device": "npu:0", "link": 0}
    board = {**common, **one, "options": {**options, "npu_staging": "E"}}
    return {
        "cpu": {**common, "device": "cpu", "link": 0, "kind": "cpu"},
        "open": {**common, **one, "kind": "open"},
        "paced": {**common, **one, "link": link, "kind": "paced"},
        "one": {**common, **one, "link": link / 2, "kind": "one"},
        "two": {**common, "device": halves(path), "link": link / 2, "kind": "two"},
        "memory": {**common, **one, "kind": "memory"},
        "board": {**board, "kind": "board"},
    }


def summarise(runs: list[dict[str, Any]], pool_nbytes: int) -> dict[str, Any]:
    """Medians, and of ratios within a round, with what is asked for."""
    good = [run for run in runs if "failed" not in run]
    of = {(run["round"], run["kind"]): run for run in good}
    summary: dict[str, Any] = {}
    for kind in KINDS:
        mine = [run for run in good if run["kind"] == kind]
        if mine:
            rates = [run["nbytes"] / run["seconds"] / 1e9 for run in mine]
            summary[kind] = {
                "n": len(mine), "gb_s": round(statistics.median(rates), 3),
                "gb_s_min": round(min(rates), 3), "gb_s_max": round(max(rates), 3),
                "bottlenecks": sorted({run["ran"]["bottleneck"] for run in mine}),
                "staging": sorted({run["ran"]["staging"] for run in mine}),
            }  # fmt: skip

    def add(kind: str, ratios: list[float], *, at_most: bool = False) -> None:
        if ratios:
            asked = ASKED[kind]
            middle = statistics.median(ratios)
            summary[kind] |= {
                "ratio": round(middle, 4), "ratio_min": round(min(ratios), 4),
                "ratio_max": round(max(ratios), 4), "asked": asked,
                "met": middle <= asked if at_most else middle >= asked,
            }  # fmt: skip

    add("paced", [run["seconds"] / (run["nbytes"] / run["link"] / 1e9)
                  for run in good if run["kind"] == "paced"], at_most=True)  # fmt: skip
    add("open", [of[n, "cpu"]["seconds"] / of[n, "open"]["seconds"]
                 for n, kind in of if kind == "open" and (n, "cpu") in of])  # fmt: skip
    add("two", [of[n, "one"]["seconds"] / of[n, "two"]["seconds"]
                for n, kind in of if kind == "two" and (n, "one") in of])  # fmt: skip
    for kind, pools in SAMPLED.items():
        peaks = [run["own_peak_nbytes"] for run in good if run["kind"] == kind]
        if peaks:
            bound = pools * pool_nbytes + MORE_NBYTES
            summary[kind] |= {
                "own_peak_nbytes": max(peaks), "asked": bound, "met": max(peaks) <= bound,
            }  # fmt: skip
    return summary


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="moe")
    parser.add_argument("--scale", type=float, default=1.0, help="toy sizes for tests")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--link", type=float, help="GB/s; default: half of what the CPU load has")
    parser.add_argument("--cann", default="8.5.0", help="version to simulate")
    parser.add_argument("--staging", default="auto", help="strategy, A to D")
    parser.add_argument("--pool", type=int, default=256 << 20, help="bytes")
    parser.add_argument("--out", type=Path, help="JSON record; default: print the summary only")
    return parser.parse_args()


def main() -> None:
    """Run the race."""
    given = parse()
    if MISSING:
        raise SystemExit(MISSING)
    given.folder.mkdir(parents=True, exist_ok=True)
    source = make(given.folder, given.model, given.scale)
    path = source.with_name(source.name + ".ckpt")
    if not path.exists():
        import ckptfmt

        ckptfmt.convert(source, path)
    nbytes = sum(file.stat().st_size for file in path.glob("part-*"))
    memory = f"{nbytes * 5 // 4 // (1 << 20) + 512}M"
    options = {"npu_staging": given.staging, "pool_nbytes": given.pool}
    asked = requests(path, source / "sums.json", 1.0, options)
    link = given.link
    if link is None:
        found = run_child(asked["cpu"], given.cann, memory)
        if "failed" in found:
            raise SystemExit(found["failed"])
        link = round(found["nbytes"] / found["seconds"] / 2e9, 3)
    asked = requests(path, source / "sums.json", link, options)
    runs: list[dict[str, Any]] = []
    began = time.time()
    for number in range(given.rounds):
        for kind in given.kinds if number % 2 == 0 else reversed(given.kinds):
            runs.append({"round": number, **run_child(asked[kind], given.cann, memory)})
        print(f"round {number + 1} of {given.rounds}, {time.time() - began:.0f} s", file=sys.stderr)
    result = {
        "benchmark": "npu", "model": given.model, "scale": given.scale, "cann": given.cann,
        "simulated": True, "link_gb_s": link, "pool_nbytes": given.pool,
        "protocol": "second load in a fresh process from cold files, sums compared through cpu()",
        **describe(given.folder), "summary": summarise(runs, given.pool), "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
