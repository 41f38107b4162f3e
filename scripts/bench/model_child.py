"""One timed load of a model in a fresh process: ``model_child.py LOADER SUMS LIBRARY FILE...``.

As ``child.py``, but what is loaded is a model of transformers, ready to be used: the page cache is
brought to cold and checked, the first load's memory dropped, the second load timed, until one byte
of each page of its parameters has been read. The libraries are imported before the first.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.child import M_MMAP_THRESHOLD, check, cpu_seconds, kernel_nbytes, touch
from ckptfmt.bench.cache_state import establish, wait_for_host


def loader(name: str, folder: Path) -> Callable[[], Any]:
    """A function that loads the model once."""
    import torch
    from transformers import AutoModelForCausalLM

    from ckptfmt.transformers import load_model

    if name.startswith("ckptfmt"):
        return lambda: load_model(folder, "cpu")
    return lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def main() -> None:
    """Run one loader and print its record."""
    name, sums_file, touch_library, *paths = sys.argv[1:]
    library = ctypes.CDLL(touch_library)
    files = [Path(path) for path in paths]
    load = loader(name, files[0].parent)
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 128 << 10)  # as in child.py
    gc.collect()
    before = kernel_nbytes("/proc/self/status", "VmRSS:")
    record: dict[str, Any] = {"contender": name, "state": "cold"}
    model: Any = None
    for turn in ("first", "timed"):
        model = None  # before the files are made cold: it may map them
        gc.collect()
        libc.malloc_trim(0)
        record["cached_before"] = establish(files, "cold")
        if turn == "timed":
            record["host_wait_seconds"] = wait_for_host()
        cpu, began = cpu_seconds(), time.perf_counter()
        model = load()
        tensors = {name: parameter.data for name, parameter in model.named_parameters()}
        touch(library, tensors)
        seconds = time.perf_counter() - began
        cpu = cpu_seconds() - cpu
        if turn == "first":
            record["first_seconds"] = seconds
            tensors.clear()
    nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
    record |= {
        "seconds": seconds,
        "nbytes": nbytes,
        "cpu_seconds": cpu,
        # Beyond what the libraries take.
        "peak_rss_nbytes": kernel_nbytes("/proc/self/status", "VmHWM:") - before,
    }
    check(tensors, json.loads(Path(sums_file).read_text()))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
