"""Race ``load_model`` against the library's own loader, in turn, in fresh processes.

    python scripts/bench_transformers.py --rounds 5 --out docs/benchmarks/transformers.json

A Llama of 2 GB with random weights, cold, to the CPU; needs transformers. Every round loads it once
with each, the order reversed every other round. See scripts/bench/model_child.py for what is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from bench.models import llama_config, make
from bench.record import describe
from bench_load import build_ceiling, prepare_files, summarise

#: Which files each reads, by their form.
LOADERS = {
    "ckptfmt": "ckptfmt", "ckptfmt-folder": "safetensors", "from-pretrained": "safetensors",
}  # fmt: skip


def run_loader(name: str, sums: Path, library: Path, files: list[Path]) -> dict[str, Any]:
    """One load's record."""
    command = [sys.executable, HERE / "bench" / "model_child.py", name, sums, library, *files]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parse() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="toy sizes for tests")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--out", type=Path, help="JSON record; default: print the summary only")
    return parser.parse_args()


def main() -> None:
    """Run the race."""
    given = parse()
    given.folder.mkdir(parents=True, exist_ok=True)
    source = make(given.folder, "llama", given.scale)
    (source / "config.json").write_text(json.dumps(llama_config(given.scale)))
    build_ceiling(given.folder)
    files = prepare_files(source, set())
    (files["ckptfmt"][0].parent / "config.json").write_text(json.dumps(llama_config(given.scale)))
    subprocess.run(["sync", *map(str, [*files["ckptfmt"], *files["safetensors"]])], check=True)
    runs: list[dict[str, Any]] = []
    began = time.time()
    for number in range(given.rounds):
        for name in given.loaders if number % 2 == 0 else reversed(given.loaders):
            record = run_loader(
                name, source / "sums.json", given.folder / "libceiling.so", files[LOADERS[name]]
            )
            runs.append({"round": number, **record})
        print(f"round {number + 1} of {given.rounds}, {time.time() - began:.0f} s", file=sys.stderr)
    described = describe(given.folder)
    described["versions"]["transformers"] = version("transformers")
    result = {
        "benchmark": "transformers", "model": "llama", "scale": given.scale,
        "protocol": "second load of a model in a fresh process, cold, every page touched, sums "
        "compared",
        **described, "summary": summarise(runs), "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
