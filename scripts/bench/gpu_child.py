"""One contender in a process of its own, which loads whenever it is told to and says how it went.

    python gpu_child.py CONTENDER FILE...

Each line of stdin is a command; each is answered by a line of JSON. ``load`` loads with an empty
cache of device memory, ``again`` with one that holds as much as the model needs, as it does when a
model is loaded in place of another; ``compare FILE...`` loads and compares every tensor, bit for
bit, with what safetensors makes of these files.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.gpu_contenders import CONTENDERS, DEVICE


def _memory() -> tuple[int, int]:
    """Resident bytes of the process: now, and the most since `_forget_peak`."""
    text = Path("/proc/self/status").read_text()
    return tuple(int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) << 10 for key in ("VmRSS", "VmHWM"))


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def load(run: Any, nbytes: int) -> dict[str, Any]:
    """Load once; with `nbytes` of device memory at hand beforehand."""
    if nbytes:
        room = torch.empty(nbytes, dtype=torch.uint8, device=DEVICE)
        del room
    torch.cuda.synchronize()
    _forget_peak()
    before, began, cpu = _memory()[0], time.perf_counter(), time.process_time()
    found = run()
    torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = _memory()[1]
    tensors = [t for name, t in found.items() if name]
    told = {
        "seconds": seconds, "cpu_seconds": cpu, "n": len(tensors),
        "nbytes": sum(t.nbytes for t in tensors), "host_nbytes": peak - before,
        "is_there": all(t.is_cuda for t in tensors),
    }  # fmt: skip
    del found, tensors
    return told


def stats() -> dict[str, Any]:
    """What the package says of its latest load."""
    import ckptfmt

    found = ckptfmt.load_stats()
    assert found is not None
    keys = ("engine", "staging", "threads", "depth", "op_nbytes", "bottleneck", "peak_pool_nbytes",
            "disk_wait_seconds", "buffered_read_seconds", "checksum_seconds",
            "device_wait_seconds", "seconds")  # fmt: skip
    return {f"stats_{key}": value for key, value in found.to_dict().items() if key in keys}


def compare(run: Any, files: list[str]) -> dict[str, Any]:
    """Compare with safetensors, on the device."""
    from safetensors.torch import load_file

    found = run()
    n = wrong = 0
    for file in files:
        for name, on_host in load_file(file).items():
            tensor, mine = on_host.to(DEVICE), found.pop(name)
            same = mine.dtype == tensor.dtype and mine.shape == tensor.shape
            n += 1
            wrong += not (same and torch.equal(mine.view(torch.int16), tensor.view(torch.int16)))
    return {"compared": n, "wrong": wrong + len(found)}


def main() -> None:
    """Obey."""
    name, files = sys.argv[1], [Path(f) for f in sys.argv[2:]]
    torch.cuda.init()
    torch.empty(1, device=DEVICE)
    run = CONTENDERS[name].prepare(files)
    nbytes = sum(f.stat().st_size for f in files) + (512 << 20)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        try:
            if command == "compare":
                told = compare(run, rest)
            else:
                told = load(run, nbytes if command == "again" else 0)
                if name.startswith("ckptfmt"):
                    told |= stats()
        except Exception as error:
            told = {"failed": f"{type(error).__name__}: {error}"[:400]}
        gc.collect()
        torch.cuda.empty_cache()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
