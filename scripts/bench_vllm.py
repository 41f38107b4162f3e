"""Time how long vLLM takes to load weights, by its own loader and by ckptfmt; leave a JSON record.

    python scripts/bench_vllm.py --rounds 5 --out docs/benchmarks/vllm.json

By the Python that has vLLM (scripts/test_vllm.sh makes one, .venv-vllm). A Llama of 2 GB with
random weights; every round loads it once in each way, in a fresh process, from cold files, the
order reversed every other round:

* default: vLLM's own loader, from safetensors.
* name: ckptfmt by name, verified.
* rank: each rank's own tensors, as `save_rank_state` stored them, verified.

What is timed is the loader's `load_weights`, the second in its process, into a model that was made
anew: see scripts/bench/vllm_worker.py. Sums of all parameters are compared.
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

from bench.models import llama_config, make
from bench.record import describe

KINDS = ("default", "name", "rank")
#: Of the default loader's seconds, at most.
ASKED = {"name": 0.80, "rank": 0.70}


def prepare(folder: Path, scale: float, tensor_parallel: int, kinds: list[str]) -> dict[str, Path]:
    """The model in each form, made where it is missing."""
    import ckptfmt

    source = make(folder, "llama", scale)
    if not (source / "config.json").exists():
        (source / "config.json").write_text(json.dumps(llama_config(scale)))
    converted = source.with_name(f"{source.name}.ckpt")
    if not converted.exists():
        ckptfmt.convert(source, converted)
    found = {"default": source, "name": converted}
    if "rank" in kinds:
        state = source.with_name(f"{source.name}.tp{tensor_parallel}.ckpt")
        if not state.exists():
            extra = {"save_rank_state": str(state)}
            run_child({"kind": "name", "path": str(converted), "extra": extra, "files": [],
                       "config": str(source), "tensor_parallel": tensor_parallel})  # fmt: skip
        found["rank"] = state
    return found


def run_child(given: dict[str, Any]) -> dict[str, Any]:
    """Load in a fresh process; the record, or why there is none."""
    paths = (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    env = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Else vLLM has each thread wait for another processor.
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(given["tensor_parallel"])))
        if given["tensor_parallel"] > 1 else "auto",
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(given["tensor_parallel"] > 1)),
    }  # fmt: skip
    command = [sys.executable, str(HERE / "bench" / "vllm_child.py"), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"kind"')]
    if not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return {"kind": given["kind"], "failed": last[0][:300]}
    return dict(json.loads(lines[-1]))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and of what share of the default loader's seconds of the same round."""
    good = [run for run in runs if "failed" not in run]
    of = {(run["round"], run["kind"]): run["seconds"] for run in good}
    summary: dict[str, Any] = {}
    for kind in KINDS:
        mine = [run for run in good if run["kind"] == kind]
        if not mine:
            continue
        seconds = [run["seconds"] for run in mine]
        summary[kind] = {
            "n": len(mine), "seconds": round(statistics.median(seconds), 4),
            "seconds_min": round(min(seconds), 4), "seconds_max": round(max(seconds), 4),
            "first_seconds": round(statistics.median(run["first_seconds"] for run in mine), 4),
            "gb_s": round(mine[0]["nbytes"] / statistics.median(seconds) / 1e9, 3),
            "strategies": sorted({run["strategy"] for run in mine}),
        }  # fmt: skip
        shares = [run["seconds"] / of[run["round"], "default"] for run in mine
                  if (run["round"], "default") in of]  # fmt: skip
        if kind in ASKED and shares:
            middle = statistics.median(shares)
            summary[kind] |= {
                "share": round(middle, 4), "share_min": round(min(shares), 4),
                "share_max": round(max(shares), 4), "asked": ASKED[kind],
                "met": middle <= ASKED[kind],
            }  # fmt: skip
    return summary


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="toy sizes for tests")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON record; default: print the summary only")
    return parser.parse_args()


def main() -> None:
    """Run the race."""
    given = parse()
    given.folder.mkdir(parents=True, exist_ok=True)
    paths = prepare(given.folder, given.scale, given.tensor_parallel, given.kinds)
    runs: list[dict[str, Any]] = []
    began = time.time()
    for number in range(given.rounds):
        for kind in given.kinds if number % 2 == 0 else reversed(given.kinds):
            path = paths[kind]
            files = sorted([*path.glob("*.safetensors"), *path.glob("part-*.ckptfmt")])
            asked = {
                "kind": kind, "path": str(path), "extra": {}, "files": list(map(str, files)),
                "config": str(paths["default"]), "tensor_parallel": given.tensor_parallel,
            }  # fmt: skip
            runs.append({"round": number, **run_child(asked)})
        print(f"round {number + 1} of {given.rounds}, {time.time() - began:.0f} s", file=sys.stderr)
    sums = {str(run["sums"]) for run in runs if "failed" not in run}
    if len(sums) > 1:
        raise SystemExit(f"the parameters differ: {runs}")
    result = {
        "benchmark": "vllm", "model": "llama", "scale": given.scale,
        "tensor_parallel": given.tensor_parallel,
        "protocol": "second load_weights in a fresh process from cold files, sums compared",
        **describe(given.folder), "summary": summarise(runs), "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))
    failed = [run for run in runs if "failed" in run]
    if failed:
        raise SystemExit(f"failed: {failed}")


if __name__ == "__main__":
    main()
