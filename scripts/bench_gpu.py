"""Race loads to a CUDA GPU against the link, the disk and other loaders; leave a JSON record.

    python scripts/bench_gpu.py --out docs/benchmarks/gpu-h200.json

Builds the package where it is, makes its models, checks bytes, and races. Every contender is a
process that lives through all rounds, so that importing is paid once; a round has each of them load
once, the order reversed every other round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))

MiB = 1 << 20
PROTOCOL = (
    "processes that live through all rounds, device memory at hand, torch.cuda.synchronize before "
    "and after"
)
#: For one load.
PATIENCE_S = 90


def build() -> None:
    """Compile the package in its folder; told apart from timing by doing it first."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", "16"]
    subprocess.run(command, cwd=HERE.parent, check=True)


def llama_8b(layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of Llama 3.1 8B, which has 32 layers: 291 bf16 tensors, 16.06 GB."""
    hidden, inner, kv, vocab = 4096, 14336, 1024, 128256
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.k_proj.weight": (kv, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    return shapes


def make(folder: Path, layers: int, shrink: int) -> Path:
    """Write a model as safetensors in shards of 5 GB, by a thread for each; random bytes."""
    source = folder / f"llama-{layers}"
    if source.exists():
        return source
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in llama_8b(layers).items():
        small = (max(1, shape[0] // shrink), *shape[1:])
        nbytes = 2 * int(np.prod(small))
        if shards[-1] and filled + nbytes > 5_000_000_000:
            shards.append({})
            filled = 0
        shards[-1][name] = small
        filled += nbytes
    unfinished = folder / f".llama-{layers}"
    unfinished.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(
            lambda n: _write_shard(
                unfinished / f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors", shards[n], n
            ), range(len(shards)),
        ))  # fmt: skip
    unfinished.rename(source)
    return source


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.Generator(np.random.SFC64([2026, seed]))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while at:
            step = min(at, 64 * MiB)
            file.write(rng.integers(0, 1 << 64, -(-step // 8), np.uint64).tobytes()[:step])
            at -= step
        os.fsync(file.fileno())  # what is dirty cannot be dropped from the cache


def prepare(folder: Path, layers: int, shrink: int) -> dict[str, list[Path]]:
    """A model in both forms."""
    import ckptfmt

    source = make(folder, layers, shrink)
    target = source.with_name(f"{source.name}.ckpt")
    if not target.exists():
        ckptfmt.convert(source, target)
    return {
        "safetensors": sorted(source.glob("*.safetensors")),
        "ckptfmt": sorted(target.glob("part-*.ckptfmt")),
    }


class Child:
    """A contender's process."""

    def __init__(self, name: str, files: Sequence[Path], **environment: str) -> None:
        command = [sys.executable, HERE / "bench" / "gpu_child.py", name, *files]
        paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stderr=sys.stderr,
        )  # fmt: skip
        self.name = name
        self.is_ready = "ready" in self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
                self.process.kill()
                return {"failed": f"nothing heard for {PATIENCE_S} s"}
            line = self.process.stdout.readline()
            if line.startswith("{"):
                return dict(json.loads(line))
            if not line:
                return {"failed": f"the process ended with {self.process.wait()}"}

    def ask(self, *command: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        if self.process.poll() is not None:
            return {"failed": f"the process had ended with {self.process.returncode}"}
        try:
            self.process.stdin.write(" ".join(map(str, command)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"failed": f"the process ended with {self.process.wait()}"}
        return self._answer()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def race(
    files: dict[str, list[Path]], state: str, rounds: int, names: list[str],
    runs: list[dict[str, Any]], write: Callable[[], None],
) -> None:  # fmt: skip
    """All rounds of one state, added to `runs`, which are written after each."""
    from bench.gpu_contenders import CONTENDERS

    from ckptfmt.bench.cache_state import establish
    from ckptfmt.errors import FileError

    names = [n for n in names if state in CONTENDERS[n].states.split()]
    with ThreadPoolExecutor(4) as pool:
        children = list(pool.map(lambda n: Child(n, files[CONTENDERS[n].files]), names))
    ceiling = _ceiling(files["ckptfmt"][0].parent.parent) if state == "cold" else None
    for number in range(-1, rounds):  # the round before the first: with nothing at hand
        order = list(children)
        random.Random(number // 2).shuffle(order)
        for child in order if number % 2 == 0 else reversed(order):
            form = files[CONTENDERS[child.name].files]
            try:
                establish(form, state)
            except FileError as error:  # somebody holds on to the pages
                told = {"failed": str(error)}
            else:
                told = child.ask("again" if number >= 0 else "load")
            runs.append({"round": number, "state": state, "contender": child.name, **told})
            print(json.dumps(runs[-1])[:200], file=sys.stderr, flush=True)
        if ceiling and number >= 0:
            for depth in (8, 32):
                told = _read(ceiling, depth, files["ckptfmt"])
                told |= {"round": number, "state": state, "contender": f"ceiling-disk-{depth}"}
                runs.append(told)
        write()
    mine = next(c for c in children if c.name == "ckptfmt")
    equal = mine.ask("compare", *files["safetensors"])
    runs.append({"round": -1, "state": state, "contender": "compare", **equal})
    write()
    for child in children:
        child.close()


def _ceiling(folder: Path) -> Path:
    program = folder / "ceiling"
    native = HERE.parent / "ckptfmt" / "_native"
    command = ["cc", "-O2", HERE / "bench" / "ceiling.c", native / "crc32c.c", "-lpthread", "-o"]
    subprocess.run([*command, program], check=True)
    return program


def _read(program: Path, depth: int, files: Sequence[Path]) -> dict[str, Any]:
    command = [program, "direct", "cold", str(depth), str(4 * MiB), "1", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip()[-300:]}
    return dict(json.loads(done.stdout))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and of ratios to others of the same round."""
    summary: dict[str, Any] = {}
    good = [r for r in runs if "seconds" in r and "failed" not in r]
    for state, name in sorted({(r["state"], r["contender"]) for r in good}):
        rates = {r["round"]: r["nbytes"] / r["seconds"] / 1e9 for r in good
                 if (r["state"], r["contender"]) == (state, name)}  # fmt: skip
        first = rates.pop(-1, None)
        if not rates:
            continue
        told: dict[str, Any] = {
            "n": len(rates), "gb_s": round(statistics.median(rates.values()), 3),
            "gb_s_min": round(min(rates.values()), 3), "gb_s_max": round(max(rates.values()), 3),
            "first_gb_s": first and round(first, 3), "rate_to": {},
        }  # fmt: skip
        mine = [r for r in good if (r["state"], r["contender"]) == (state, name)]
        host = [r["host_nbytes"] for r in mine if "host_nbytes" in r and r["round"] >= 0]
        if host:
            told["host_mib"] = round(statistics.median(host) / MiB, 1)
        for one in mine:  # a first load also makes the pool, which stays
            if one["round"] < 0 and "stats_peak_pool_nbytes" in one:
                beyond = one["host_nbytes"] - one["stats_peak_pool_nbytes"]
                told["first_host_mib_beyond_pool"] = round(beyond / MiB, 1)
        for other in sorted({r["contender"] for r in good if r["state"] == state} - {name}):
            ratios = [rates[r["round"]] / (r["nbytes"] / r["seconds"] / 1e9) for r in good
                      if (r["state"], r["contender"]) == (state, other) and r["round"] in rates]
            if ratios:
                told["rate_to"][other] = round(statistics.median(ratios), 4)
        summary[f"{name} {state}"] = told
    return summary


def run_checks(checkpoint: Path, loads: int) -> dict[str, Any]:
    """Bytes under reuse of memory, and compute-sanitizer on one load."""
    script = HERE / "bench" / "gpu_checks.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))}  # fmt: skip
    found: dict[str, Any] = {}
    done = subprocess.run(
        [sys.executable, script, checkpoint, str(loads)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found["reuse"] = json.loads(lines[-1]) if lines else {"failed": done.stderr[-2000:]}
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer:
        done = subprocess.run(
            [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, script,
             checkpoint, "1"],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        told = done.stdout + done.stderr
        summary = re.findall(r"ERROR SUMMARY: .*", told)
        found["sanitizer"] = {"exit": done.returncode, "summary": summary[-1:],
                              "end": "" if done.returncode == 0 else told[-3000:]}  # fmt: skip
    return found


def machine() -> dict[str, Any]:
    """The GPU and the driver."""
    import torch

    query = "name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max"
    if shutil.which("nvidia-smi") is None:
        return {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    return {"gpu": done.stdout.strip(), "cuda": torch.version.cuda,
            "torch": torch.__version__}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--layers", type=int, default=32, help="of the model for warm loads")
    parser.add_argument("--cold-layers", type=int, default=8, help="of the one for cold loads")
    parser.add_argument("--shrink", type=int, default=1, help="toy sizes: rows divided by this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--states", nargs="+", default=["warm", "cold"])
    parser.add_argument("--loads", type=int, default=100,
                        help="into memory that was just used; 0 for no checks")  # fmt: skip
    parser.add_argument("--contenders", nargs="+", help="default: all that are installed")
    parser.add_argument("--no-build", action="store_true", help="the package is there")
    parser.add_argument("--commit", help="of a copy that has no history")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def installed() -> list[str]:
    """Contenders that can be imported."""
    from bench.gpu_contenders import CONTENDERS

    packages = {"runai": "runai_model_streamer", "fastsafetensors": "fastsafetensors",
                "instanttensor": "instanttensor"}  # fmt: skip
    return [n for n in CONTENDERS
            if (p := packages.get(n.partition("-")[0])) is None or importlib.util.find_spec(p)]


def main() -> None:
    """Build, make, check, race, write down."""
    given = parse()
    began = time.time()
    if not given.no_build:
        build()
    given.folder.mkdir(parents=True, exist_ok=True)
    from bench.record import describe

    result: dict[str, Any] = {
        "benchmark": "gpu", "model": "llama8b", "layers": given.layers,
        "cold_layers": given.cold_layers, "shrink": given.shrink, "protocol": PROTOCOL,
        **describe(given.folder), **machine(),
    }  # fmt: skip
    if given.commit:
        result["commit"] = given.commit
    runs: list[dict[str, Any]] = []
    if given.out and given.out.exists():  # another state of the same record
        before = json.loads(given.out.read_text())
        runs += [run for run in before["runs"] if run["state"] not in given.states]
        result["checks"] = before["checks"]

    def write() -> None:
        result.update(summary=summarise(runs), runs=runs)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(result, indent=1) + "\n")

    if given.loads:
        small = prepare(given.folder, 1, max(16, given.shrink))
        result["checks"] = run_checks(small["ckptfmt"][0].parent, given.loads)
        print(json.dumps(result["checks"]), f"{time.time() - began:.0f} s", flush=True)
        write()
    for state in given.states:
        files = prepare(given.folder, given.layers if state == "warm" else given.cold_layers,
                        given.shrink)  # fmt: skip
        print(f"{state}: made after {time.time() - began:.0f} s", flush=True)
        race(files, state, given.rounds, given.contenders or installed(), runs, write)
        print(f"{state}: {time.time() - began:.0f} s", flush=True)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
