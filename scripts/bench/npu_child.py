"""One timed load in a fresh process, to simulated NPUs or the CPU: ``python npu_child.py JSON``.

As in child.py the first load is not what is timed: it brings the devices up, chooses the staging
and makes the simulated devices' memory real, as a device's is from the start. Between the two the
files are made cold, and the links get their rates. As much host memory as a load needs is let go of
right before it, as in child.py the first load's tensors are: else the pool of a load to a device,
and not that of one to the CPU, would have to come from the virtual machine's host. Tensors are
compared by their sums afterwards, through ``t.cpu()``, without a pace.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from bench.child import check, cpu_seconds
from ckptfmt.bench.cache_state import establish, wait_for_host

#: The pools of two devices by default.
POOLS_NBYTES = 2 * (256 << 20)


def main() -> None:
    """Run one load and print its record."""
    given = json.loads(sys.argv[1])
    path, device = Path(given["path"]), given["device"]
    files = sorted(path.glob("part-*.ckptfmt"))
    import torch  # noqa: F401

    import ckptfmt
    from ckptfmt._core import Memory

    simulator = None
    if device != "cpu":
        from tests.helpers.simulator import Simulator

        simulator = Simulator()
    options = ckptfmt.LoadOptions(**given.get("options", {}))
    record: dict[str, Any] = {"kind": given["kind"], "device": device, "link": given["link"]}
    began = time.perf_counter()
    tensors = ckptfmt.load(path, device=device, options=options)
    record["first_seconds"] = time.perf_counter() - began
    ballast = [Memory(POOLS_NBYTES)]
    ballast[0].populate(0, POOLS_NBYTES)
    record["cached_before"] = establish(files, "cold")
    record["host_wait_seconds"] = wait_for_host()
    tensors.clear()
    ballast.clear()
    gc.collect()
    if simulator is not None:
        simulator.set("h2d", given["link"])
    peak: Any = nullcontext()
    if given["kind"] in ("memory", "board"):
        from tests.npu.cases.memory import Peak

        peak = Peak()
    cpu, began = cpu_seconds(), time.perf_counter()
    with peak:
        tensors = ckptfmt.load(path, device=device, options=options)
    record["seconds"] = time.perf_counter() - began
    record["cpu_seconds"] = cpu_seconds() - cpu
    stats = ckptfmt.load_stats()
    assert stats is not None
    record["nbytes"] = stats.nbytes
    if not isinstance(peak, nullcontext):
        record["own_peak_nbytes"] = peak.nbytes
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
