"""One timed load in a fresh process: ``python child.py CONTENDER STATE SUMS LIBRARY FILE...``.

The first load is timed too but counts for nothing: on a virtual machine whose host takes free
memory back, it measures the host. The page cache is brought to its state and checked, the host
waited for, the first load's memory dropped, and the second load timed at once, until every tensor
exists and one byte of each of its pages has been read. Then the sum of each tensor is compared.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.contenders import CONTENDERS, Tensors
from ckptfmt.bench.cache_state import establish, wait_for_host

M_MMAP_THRESHOLD = -3


def touch(library: ctypes.CDLL, tensors: Tensors) -> None:
    """Read one byte in every 4 KiB page, so that lazy mappings pay."""
    count = len(tensors)
    addresses, sizes = (ctypes.c_void_p * count)(), (ctypes.c_size_t * count)()
    for i, tensor in enumerate(tensors.values()):
        addresses[i], sizes[i] = tensor.data_ptr(), tensor.nbytes
    library.touch(addresses, sizes, ctypes.c_size_t(count))


def check(tensors: Tensors, sums: dict[str, int]) -> None:
    """Compare the sum of the 16-bit words of each tensor with the generator's."""
    import numpy as np
    import torch

    if set(tensors) != set(sums):
        raise SystemExit(f"{len(tensors)} tensors, expected {len(sums)}")
    for name, tensor in tensors.items():
        words = tensor.contiguous().view(-1).view(torch.uint8).numpy().view(np.uint16)
        if int(words.sum(dtype=np.uint64)) != sums[name]:
            raise SystemExit(f"{name} came out wrong")


def cpu_seconds() -> float:
    """Processor time of this process, system's included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def kernel_nbytes(file: str, field: str) -> int:
    """A count of this process from /proc. (``ru_maxrss`` would be the parent's, carried over.)"""
    for line in Path(file).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def main() -> None:
    """Run one contender and print its record."""
    name, state, sums_file, touch_library, *paths = sys.argv[1:]
    library = ctypes.CDLL(touch_library)
    files = [Path(p) for p in paths]
    run = CONTENDERS[name].prepare(files)
    libc = ctypes.CDLL(None)
    # Fixed at its starting value: a freed large block would raise it, and memory be reused unseen.
    libc.mallopt(M_MMAP_THRESHOLD, 128 << 10)
    record: dict[str, Any] = {"contender": name, "state": state}
    tensors: Tensors = {}
    for turn in ("first", "timed"):
        record["cached_before"] = establish(files, state)
        if turn == "timed":
            record["host_wait_seconds"] = wait_for_host()
            tensors.clear()
            gc.collect()
            libc.malloc_trim(0)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        cpu, began = cpu_seconds(), time.perf_counter()
        tensors = run()
        touch(library, tensors)
        seconds = time.perf_counter() - began
        cpu = cpu_seconds() - cpu
        if turn == "first":
            record["first_seconds"] = seconds
    nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
    record |= {
        "seconds": seconds,
        "nbytes": nbytes,
        "cpu_seconds": cpu,
        "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
        "peak_rss_nbytes": kernel_nbytes("/proc/self/status", "VmHWM:"),
    }
    if name.startswith("ckptfmt"):
        import ckptfmt

        stats = ckptfmt.load_stats()
        assert stats is not None
        record["ran"] = stats.to_dict()
        record["anon_huge_nbytes"] = kernel_nbytes("/proc/self/smaps_rollup", "AnonHugePages:")
        began = time.perf_counter()
        ckptfmt.open(files[0].parent).close()
        record["open_seconds"] = time.perf_counter() - began
    check(tensors, json.loads(Path(sums_file).read_text()))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
