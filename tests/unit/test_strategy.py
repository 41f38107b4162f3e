"""What is asked of the page cache before reading: samples of large files, all of others."""

from __future__ import annotations

import numpy as np
import pytest

from ckptfmt import strategy
from ckptfmt.read_plan import OP_DTYPE

MiB = 1 << 20


def ops_of(nbytes: int, op_nbytes: int = 4 * MiB) -> np.ndarray:
    ops = np.zeros(nbytes // op_nbytes, OP_DTYPE)
    ops["offset"] = np.arange(len(ops)) * op_nbytes
    ops["nbytes"] = op_nbytes
    return ops


class Cache:
    """A page cache by a rule, and what it was asked for."""

    def __init__(self, period: int, cached: int) -> None:
        self.period, self.cached, self.asked = period, cached, 0

    def query(self, fd: int, offset: int, nbytes: int) -> int:
        self.asked += nbytes
        pages = np.arange(offset, offset + nbytes, 4096) % self.period
        return int((pages < self.cached).sum()) * 4096


def test_a_large_cached_file_is_asked_for_by_samples() -> None:
    cache, ops = Cache(1, 1), ops_of(2048 * MiB)
    cached, note = strategy._cached(3, ops, cache.query)
    assert (cached == ops["nbytes"]).all()
    assert note == " by samples"
    assert cache.asked < 16 * MiB


def test_a_small_one_is_asked_for_whole() -> None:
    cache = Cache(1, 1)
    _, note = strategy._cached(3, ops_of(512 * MiB), cache.query)
    assert note == ""
    assert cache.asked == 512 * MiB


@pytest.mark.parametrize(("period", "cached"), [
    (8, 4), (16, 8), (16, 4), (16, 12), (24, 12), (32, 16), (64, 60), (1024, 1000), (4096, 4080),
    (4096, 0),
])  # fmt: skip
def test_what_is_missing_is_found(period: int, cached: int) -> None:
    """In patterns of tensors' sizes, and as a single hole of 16 MiB and more."""
    times = 4096 // period
    cache, ops = Cache(period * MiB, cached * MiB), ops_of(times * period * MiB)
    found, note = strategy._cached(3, ops, cache.query)
    assert note == ""
    assert int(found.sum()) == times * cached * MiB
