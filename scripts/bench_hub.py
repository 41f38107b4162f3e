"""Race ``convert --stream`` against what its client and a local conversion would allow together.

    python scripts/bench_hub.py --hub huggingface --rounds 3 --out docs/benchmarks/hub.json

A server on the loopback, in a process of its own, paces the bytes of files: to a share of the rate
at which the same folder is converted locally. Timed are the client alone, fetching the shards to
the disk, the local conversion with a cold source, and the streamed conversion. If the slower of the
first two were all there is to wait for, the streamed one would take as long: that is the ideal it
is compared with. The space it needs on the disk is sampled meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from bench.models import SHARD_NBYTES
from bench.record import describe

from ckptfmt.bench.cache_state import establish

CONVERT = """
import json, sys, time
import ckptfmt.conversion, huggingface_hub, modelscope_hub
from huggingface_hub import hf_hub_download  # not before: it loads what it needs when asked
began = time.perf_counter()
report = ckptfmt.convert(sys.argv[1], sys.argv[2], stream=sys.argv[3] == "stream",
                         partition_size=int(sys.argv[4]))
print(json.dumps({"seconds": time.perf_counter() - began, "id": report.checkpoint_id}))
"""
FETCH = {
    "huggingface": """
import json, sys, time
from huggingface_hub import hf_hub_download
began = time.perf_counter()
for name in sys.argv[1:]:
    hf_hub_download("org/model", name)
print(json.dumps({"seconds": time.perf_counter() - began}))
""",
    "modelscope": """
import json, sys, time
from modelscope_hub import HubApi
began = time.perf_counter()
for name in sys.argv[1:]:
    HubApi().download_file("org/model", "model", name)
print(json.dumps({"seconds": time.perf_counter() - began}))
""",
}


class Disk(threading.Thread):
    """Samples how much a folder takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.peak_nbytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.look()

    def look(self) -> None:
        """Add up blocks, not sizes: what was reserved counts, holes do not."""
        found = {}
        for path, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):
                    status = (Path(path) / name).lstat()
                    found[status.st_ino] = status.st_blocks * 512
        self.peak_nbytes = max(self.peak_nbytes, sum(found.values()))


def make(folder: Path, shards: int, nbytes: int) -> Path:
    """A repository of bf16 shards, unless it is there."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = folder / f"hub-{shards}x{nbytes}"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.SFC64(2026))
    count = max(1, nbytes // (32 << 20))
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        tensors = {
            f"layers.{i}.{j}.weight": rng.integers(0, 1 << 16, nbytes // count // 2, np.uint16)
            for j in range(count)
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    subprocess.run(["sync", *map(str, folder.iterdir())], check=True)  # or they cannot be cold
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}\n")
    return folder


def run(code: str, *arguments: object, env: dict[str, str]) -> dict[str, Any]:
    """Python in a fresh process; its last line is a record."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Server:
    """The hub of the tests, in another process."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.hub.server", str(folder), str(rate)],
            stdout=subprocess.PIPE, text=True, cwd=HERE.parent,
        )  # fmt: skip
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        self.endpoint = re.fullmatch(r"(http://\S+)\n", line)[1]  # type: ignore[index]

    def close(self) -> None:
        """End it."""
        self.child.terminate()
        self.child.wait()


def summed_up(runs: list[dict[str, Any]], shares: list[float]) -> dict[str, dict[str, Any]]:
    """Of each rate: the median of what is compared, and the most space it took."""
    summary = {}
    for share in shares:
        mine = [r for r in runs if r["share"] == share]
        summary[f"{share:g}"] = {
            "n": len(mine),
            "rate_to_ideal": round(statistics.median(r["rate_to_ideal"] for r in mine), 3),
            "peak_beyond_output_in_shards": round(
                max(r["peak_beyond_output_in_shards"] for r in mine), 3),
        }  # fmt: skip
    return summary


def parsed() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=list(FETCH), default="huggingface")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--nbytes", type=int, default=1_000_000_000, help="of a shard")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 1.0, 2.0],
                        help="the server's rate, as shares of the local conversion's")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run the race."""
    given = parsed()
    folder = given.folder.absolute()
    source = make(folder, given.shards, given.nbytes)
    shards = sorted(source.glob("*.safetensors"))
    total = sum(path.stat().st_size for path in shards)
    place = folder / "hub-place"
    partition = min(SHARD_NBYTES, given.nbytes)
    runs: list[dict[str, Any]] = []

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        (place / "tmp").mkdir(parents=True)
        establish(shards, "cold")

    scheme = {"huggingface": "hf", "modelscope": "ms"}[given.hub]
    fresh()
    run(CONVERT, source, place / "warm-up", "", partition, env={})
    for number in range(given.rounds):
        fresh()
        local = run(CONVERT, source, place / "target", "", partition, env={})
        for share in given.shares:
            rate = share * total / local["seconds"]
            server = Server(source, rate)
            env = {
                "HF_ENDPOINT": server.endpoint, "MODELSCOPE_ENDPOINT": server.endpoint,
                "HF_HOME": str(place / "hf"), "MODELSCOPE_CACHE": str(place / "ms"),
                "HF_HUB_DISABLE_XET": "1", "TMPDIR": str(place / "tmp"),
                "no_proxy": "127.0.0.1,localhost",
            }  # fmt: skip
            try:
                fresh()
                fetched = run(FETCH[given.hub], *(p.name for p in shards), env=env)
                fresh()
                disk = Disk(place)
                disk.start()
                streamed = run(
                    CONVERT, f"{scheme}://org/model", place / "target", "stream", partition, env=env
                )
                disk.ended.set()
                disk.join()
            finally:
                server.close()
            output = sum(p.stat().st_size for p in (place / "target").iterdir())
            ideal = max(local["seconds"], fetched["seconds"])
            runs.append({
                "round": number, "share": share, "rate_gb_s": rate / 1e9,
                "local_s": local["seconds"], "fetched_s": fetched["seconds"],
                "streamed_s": streamed["seconds"],
                "rate_to_ideal": ideal / streamed["seconds"],
                "peak_nbytes": disk.peak_nbytes, "output_nbytes": output,
                "peak_beyond_output_in_shards":
                    (disk.peak_nbytes - output) / shards[0].stat().st_size,
            })  # fmt: skip
            print(json.dumps(runs[-1]), file=sys.stderr)
    summary = summed_up(runs, given.shares)
    result = {
        "benchmark": "hub", "hub": given.hub, "shards": given.shards, "nbytes": total,
        **describe(given.folder), "summary": summary, "runs": runs,
    }  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(place)
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
