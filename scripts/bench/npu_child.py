"""One timed load in a fresh process, to simulated NPUs or the CPU: ``python npu_child.py JSON``.

As in child.py the first load is not what is timed: it brings the devices up, chooses the staging
and makes the simulated devices' memory real, as a device's is from the start. Between the two the
files are made cold, and the links get their rates. Tensors are compared by their sums afterwards,
through ``t.cpu()``, without a pace.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from bench.cache import establish, wait_for_host
from bench.child import check, cpu_seconds

#: Of this process's own memory; the simulated devices' is that of memfds.
OWN = ("RssAnon:", "HugetlbPages:")
SAMPLE_S = 0.005


def own_nbytes() -> int:
    """Anonymous memory of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(OWN)) << 10


class Peak:
    """The most memory of its own that the process had, above the level before."""

    def __init__(self, simulator: Any) -> None:
        self.simulator = simulator
        self.done = threading.Event()

    def now(self) -> int:
        """What the runtime gives as pinned memory is the host's as well."""
        pinned = 0
        if self.simulator is not None:
            pinned = sum(one["nbytes"] for one in self.simulator.account()["live"]["host"])
        return own_nbytes() + pinned

    def __enter__(self) -> Peak:
        self.base = self.top = self.now()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(SAMPLE_S):
            self.top = max(self.top, self.now())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def main() -> None:
    """Run one load and print its record."""
    given = json.loads(sys.argv[1])
    path, device = Path(given["path"]), given["device"]
    files = sorted(path.glob("part-*.ckptfmt"))
    import torch  # noqa: F401

    import ckptfmt

    simulator = None
    if device != "cpu":
        from tests.helpers.simulator import Simulator

        simulator = Simulator()
    options = ckptfmt.LoadOptions(**given.get("options", {}))
    record: dict[str, Any] = {"kind": given["kind"], "device": device, "link": given["link"]}
    began = time.perf_counter()
    tensors = ckptfmt.load(path, device=device, options=options)
    record["first_seconds"] = time.perf_counter() - began
    record["cached_before"] = establish(files, "cold")
    record["host_wait_seconds"] = wait_for_host()
    tensors.clear()
    gc.collect()
    if simulator is not None:
        simulator.set("h2d", given["link"])
    peak = Peak(simulator)
    cpu, began = cpu_seconds(), time.perf_counter()
    if given["kind"] in ("memory", "board"):
        with peak:
            tensors = ckptfmt.load(path, device=device, options=options)
        record["own_peak_nbytes"] = peak.top - peak.base
    else:
        tensors = ckptfmt.load(path, device=device, options=options)
    record["seconds"] = time.perf_counter() - began
    record["cpu_seconds"] = cpu_seconds() - cpu
    stats = ckptfmt.load_stats()
    assert stats is not None
    record["nbytes"] = stats.nbytes
    record["ran"] = stats.to_dict()
    if simulator is not None:
        simulator.set("h2d", 0)
        record["account"] = {
            name: simulator.account()[name]
            for name in ("violation_count", "pageable_copies", "corrupted_copies")
        }
    sums = json.loads(Path(given["sums"]).read_text())
    if set(tensors) != set(sums):
        raise SystemExit(f"{len(tensors)} tensors, expected {len(sums)}")
    for name, tensor in tensors.items():
        check({name: tensor.cpu()}, {name: sums[name]})
    print(json.dumps(record))


if __name__ == "__main__":
    main()
