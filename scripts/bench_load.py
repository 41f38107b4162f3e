"""Race loads against ceilings and peers, in turn, in fresh processes; leave a JSON record.

    python scripts/bench_load.py --model moe --rounds 9 --out docs/benchmarks/load-moe.json

Every round runs each contender once, the order reversed every other round, so that the ratio of two
figures of one round survives a machine that drifts. See scripts/bench/child.py for what is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from bench.contenders import CONTENDERS
from bench.models import MODELS, make
from bench.record import describe

from ckptfmt.bench.cache_state import establish

#: Ceilings, run by the C program: mode, depth, block, threads.
CEILINGS = {
    "ceiling-direct": ("direct", 8, 4 << 20, 1),
    "ceiling-direct-verified": ("direct-crc", 8, 4 << 20, 1),
    "ceiling-buffered": ("buffered", 1, 4 << 20, 2),
    "ceiling-buffered-16m": ("buffered", 1, 16 << 20, 2),
}
#: Contenders that say something in one state only.
ONLY = {
    "ceiling-direct": {"cold"}, "ceiling-direct-verified": {"cold"},
    "ceiling-buffered": {"warm"}, "ceiling-buffered-16m": {"warm"},
    "ckptfmt-direct": {"half"}, "ckptfmt-buffered": {"half"}, "fio": {"cold"},
}  # fmt: skip
#: What is run on half-cached files.
HALF = {"ckptfmt", "ckptfmt-direct", "ckptfmt-buffered"}


def runs_in(name: str, state: str) -> bool:
    """Whether a contender takes part in a state."""
    return state in ONLY.get(name, {"cold", "warm", "half"}) and (state != "half" or name in HALF)


def build_ceiling(folder: Path) -> Path:
    """Compile the C program, and the library of the same source that touches pages."""
    program, library = folder / "ceiling", folder / "libceiling.so"
    native = HERE.parent / "ckptfmt" / "_native"
    command = ["cc", "-O2", HERE / "bench" / "ceiling.c", native / "crc32c.c", "-lpthread", "-o"]
    subprocess.run([*command, program], check=True)
    subprocess.run([*command, library, "-shared", "-fPIC"], check=True)
    return program


def prepare_files(source: Path, wanted: set[str]) -> dict[str, list[Path]]:
    """The model in each form that a contender reads, made where it is missing."""
    files = {"safetensors": sorted(source.glob("*.safetensors"))}
    target = source.with_name(source.name + ".ckpt")
    if not target.exists():
        import ckptfmt

        ckptfmt.convert(source, target)
    files["ckptfmt"] = sorted(target.glob("part-*.ckptfmt"))
    if "torch" in wanted:
        files["torch"] = _torch_files(source, files["safetensors"])
    if "tensors" in wanted:
        files["tensors"] = _tensorizer_files(source, files["safetensors"])
    return files


def _torch_files(source: Path, shards: list[Path]) -> list[Path]:
    import torch
    from safetensors.torch import load_file

    made = []
    for shard in shards:
        path = source.with_name(f"{source.name}-{shard.stem}.bin")
        if not path.exists():
            torch.save(load_file(shard), path)
        made.append(path)
    return made


def _tensorizer_files(source: Path, shards: list[Path]) -> list[Path]:
    """Cut to 900 tensors a file: 2,995 in one end in "Metadata overflow" and an unreadable file."""
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    made = []
    for shard in shards:
        items = list(load_file(shard).items())
        for start in range(0, len(items), 900):
            path = source.with_name(f"{source.name}-{shard.stem}-{start:06d}.tensors")
            if not path.exists():
                serializer = TensorSerializer(str(path))
                serializer.write_state_dict(dict(items[start : start + 900]))
                serializer.close()
            made.append(path)
    return made


def run_ceiling(program: Path, name: str, state: str, files: list[Path]) -> dict[str, Any]:
    mode, depth, block, threads = CEILINGS[name]
    command = [program, mode, state, str(depth), str(block), str(threads), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"contender": name, "state": state, **json.loads(done.stdout)}


def run_fio(state: str, files: list[Path]) -> dict[str, Any]:
    """For orientation: a tool that many know. Its pages are small, which costs it some."""
    establish(files, state)
    command = ["fio", "--name=fio", "--rw=read", "--bs=4M", "--iodepth=8", "--ioengine=io_uring",
               "--direct=1", "--readonly", "--output-format=json",
               f"--filename={':'.join(map(str, files))}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"contender": "fio", "state": state, "failed": done.stderr.strip()[:300]}
    job = json.loads(done.stdout)["jobs"][0]
    seconds = job["read"]["runtime"] / 1e3
    return {
        "contender": "fio", "state": state, "nbytes": job["read"]["io_bytes"], "seconds": seconds,
        "first_seconds": seconds, "cpu_seconds": (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds,
        "peak_rss_nbytes": 0,
    }  # fmt: skip


def run_contender(
    name: str, state: str, sums: Path, library: Path, files: list[Path]
) -> dict[str, Any]:
    command = [sys.executable, HERE / "bench" / "child.py", name, state, sums, library, *files]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return {"contender": name, "state": state, "failed": last[0][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Medians for each contender and state, and of its ratios to others of the same round."""
    summary: dict[str, dict[str, Any]] = {}
    good = [r for r in runs if "failed" not in r]
    for key in sorted({(r["contender"], r["state"]) for r in good}):
        mine = [r for r in good if (r["contender"], r["state"]) == key]
        rates = [r["nbytes"] / r["seconds"] / 1e9 for r in mine]
        ratios = {}
        for other in sorted({r["contender"] for r in good if r["state"] == key[1]} - {key[0]}):
            pairs = [
                (r["nbytes"] / r["seconds"]) / (o["nbytes"] / o["seconds"])
                for r in mine
                for o in good
                if (o["contender"], o["state"], o["round"]) == (other, key[1], r["round"])
            ]
            if pairs:
                ratios[other] = round(statistics.median(pairs), 4)
        summary[" ".join(key)] = {
            "n": len(mine),
            "gb_s": round(statistics.median(rates), 3),
            "gb_s_min": round(min(rates), 3),
            "gb_s_max": round(max(rates), 3),
            "first_gb_s": round(
                statistics.median(r["nbytes"] / r["first_seconds"] / 1e9 for r in mine), 3
            ),
            "cpu_s_per_gb": round(
                statistics.median(r["cpu_seconds"] / r["nbytes"] * 1e9 for r in mine), 3
            ),
            "peak_rss_ratio": round(
                statistics.median(r["peak_rss_nbytes"] / r["nbytes"] for r in mine), 3
            ),
            "rate_to": ratios,
        }
        if "open_seconds" in mine[0]:
            opens = statistics.median(r["open_seconds"] for r in mine)
            summary[" ".join(key)]["open_seconds"] = round(opens, 4)
    return summary


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="moe")
    parser.add_argument("--scale", type=float, default=1.0, help="toy sizes for tests")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--states", nargs="+", default=["cold", "warm"])
    parser.add_argument("--contenders", nargs="+", help="default: all that are installed")
    parser.add_argument("--out", type=Path, help="JSON record; default: print the summary only")
    return parser.parse_args()


def main() -> None:
    """Run the race."""
    given = parse()
    given.folder.mkdir(parents=True, exist_ok=True)
    source = make(given.folder, given.model, given.scale)
    program = build_ceiling(given.folder)
    names = given.contenders or [
        name
        for name, c in CONTENDERS.items()
        if not c.package or importlib.util.find_spec(c.package.replace("-", "_"))
    ] + list(CEILINGS) + ["fio"] * bool(shutil.which("fio"))
    files = prepare_files(source, {CONTENDERS[n].files for n in names if n in CONTENDERS})
    runs: list[dict[str, Any]] = []
    began = time.time()
    for number in range(given.rounds):
        _drop_caches()
        for state in given.states:
            order = [name for name in names if runs_in(name, state)]
            random.Random(number // 2).shuffle(order)
            for name in order if number % 2 == 0 else reversed(order):
                if name == "fio":
                    record = run_fio(state, files["ckptfmt"])
                elif name in CEILINGS:
                    record = run_ceiling(program, name, state, files["ckptfmt"])
                else:
                    form = files[CONTENDERS[name].files]
                    library = program.with_name("libceiling.so")
                    record = run_contender(name, state, source / "sums.json", library, form)
                runs.append({"round": number, **record})
        print(f"round {number + 1} of {given.rounds}, {time.time() - began:.0f} s", file=sys.stderr)
    result = {
        "benchmark": "load", "model": given.model, "scale": given.scale,
        "protocol": "second load in a fresh process, every page touched, sums compared",
        **describe(given.folder), "summary": summarise(runs), "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


def _drop_caches() -> None:
    """Once a round, where it is permitted; each file's state is established before each run."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


if __name__ == "__main__":
    main()
