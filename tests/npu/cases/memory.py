"""How much host memory a load takes, beside what its tensors are in."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import ckptfmt
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    device_of,
    last_stats,
    load,
    options,
)  # fmt: skip

MiB = 1 << 20
#: What the system counts as this process's own. Memory of files and of memfds is not in it.
KINDS = ("RssAnon:", "HugetlbPages:")


def anonymous_nbytes() -> int:
    """Anonymous memory of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(KINDS)) << 10


def pinned_nbytes() -> int:
    """What the runtime has given as host memory; the simulator takes it from elsewhere."""
    return sum(one["nbytes"] for one in Simulator().account()["live"]["host"])


class Peak:
    """The most that was held at any time within."""

    def __enter__(self) -> Peak:
        self.base = self.top = anonymous_nbytes() + pinned_nbytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.003):
            self.top = max(self.top, anonymous_nbytes() + pinned_nbytes())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def nbytes(self) -> int:
        return self.top - self.base


def within(path: str, staging: str, pool_nbytes: int, bound: int, device: Any = D0) -> None:
    """A load of a large model stays within a bound."""
    device = device_of(device)
    load("tiny", device if isinstance(device, str) else {"": D0, "layers.1": D1},
         staging=staging)  # fmt: skip
    given = options(staging=staging, pool_nbytes=pool_nbytes)
    with Peak() as peak:
        found = ckptfmt.load(path, device=device, options=given)
    nbytes = sum(tensor.nbytes for tensor in found.values())
    assert nbytes > 7 * pool_nbytes, "the model fits the pool, and nothing is shown"
    assert peak.nbytes <= bound, f"{peak.nbytes / MiB:.1f} MiB, the bound is {bound / MiB:.1f}"
    assert last_stats().peak_pool_nbytes <= (2 if isinstance(device, dict) else 1) * pool_nbytes


def nearly_all(path: str, spare: int) -> None:
    """A model that leaves the device no room for a probe beside it: it fits, so it is loaded."""
    simulator = Simulator()
    account = simulator.account()["devices"][0]
    nbytes = sum(entry.nbytes for entry in ckptfmt.open(path).index.tensors)
    assert account["memory"] - nbytes == spare, account
    found = ckptfmt.load(path, device=D0)
    assert sum(tensor.nbytes for tensor in found.values()) == nbytes
    assert last_stats().staging.startswith("A: ")


def cache_is_left_as_it_was(path: str, verify: bool) -> None:
    """On a board a load of files that were not cached leaves none of them in the page cache."""
    from ckptfmt import page_cache

    with ckptfmt.open(path) as checkpoint:
        files = checkpoint.files.partitions
        ask, how = page_cache.query(files[0].fd)
        assert ask is not None, how
        for partition in files:
            os.fsync(partition.fd)
            page_cache.drop(partition.fd)
        assert sum(ask(p.fd, 0, p.file_nbytes) for p in files) < MiB, "they are cached still"
        found = checkpoint.load(device=D0, verify=verify)
        assert last_stats().staging.startswith("E: ")
        cached = sum(ask(p.fd, 0, p.file_nbytes) for p in files)
        assert cached < MiB, f"{cached} bytes are cached"
        # What somebody else has there stays.
        for partition in files:
            while os.read(partition.fd, MiB):
                pass
        checkpoint.load(device=D0, verify=verify)
        cached = sum(ask(p.fd, 0, p.file_nbytes) for p in files)
        assert cached >= sum(tensor.nbytes for tensor in found.values())
