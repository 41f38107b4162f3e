"""Statistics: derived values, and which thread they are kept for."""

from __future__ import annotations

import json
import threading

import pytest

from ckptfmt.stats import FileStrategy, LoadStats, load_stats, remember


@pytest.mark.parametrize(
    ("nbytes", "seconds", "rate"), [(3 * 10**9, 2.0, 1.5), (0, 1.0, 0.0), (5, 0.0, 0.0)]
)
def test_a_rate_is_in_10_to_the_9_bytes_a_second(nbytes: int, seconds: float, rate: float) -> None:
    assert LoadStats(nbytes=nbytes, seconds=seconds).gb_s == rate


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"disk_wait_seconds": 0.9, "checksum_seconds": 0.1}, "disk"),
        ({"disk_wait_seconds": 0.1, "checksum_seconds": 0.8}, "processor (checksums)"),
        ({"device_wait_seconds": 0.7, "disk_wait_seconds": 0.2}, "device"),
        # The checksums of buffered reads are within their time and are not counted twice.
        (
            {"buffered_read_seconds": 0.9, "checksum_seconds": 0.2},
            "memory (copy from the page cache)",
        ),
        ({"buffered_read_seconds": 0.9, "checksum_seconds": 0.8}, "processor (checksums)"),
        ({}, "processor (planning, making tensors)"),
        ({"disk_wait_seconds": 0.3}, "processor (planning, making tensors)"),
    ],
)
def test_the_bottleneck_has_a_name(given: dict[str, float], name: str) -> None:
    assert LoadStats(seconds=1.0, **given).bottleneck == name  # type: ignore[arg-type]


def test_statistics_go_to_json_with_what_is_derived() -> None:
    stats = LoadStats(
        nbytes=10**9, seconds=0.5, engine="pread", threads=2,
        files={"part-00000.ckptfmt": FileStrategy(direct_nbytes=4096, reason="asked for")},
    )  # fmt: skip
    found = json.loads(json.dumps(stats.to_dict()))
    assert found["gb_s"] == 2.0
    assert found["bottleneck"] == stats.bottleneck
    assert found["engine"] == "pread"
    assert found["files"]["part-00000.ckptfmt"] == {
        "direct_nbytes": 4096, "buffered_nbytes": 0, "mapped_nbytes": 0, "reason": "asked for",
    }  # fmt: skip


def test_each_thread_has_its_own_latest_load() -> None:
    found: list[LoadStats | None] = []

    def other() -> None:
        found.append(load_stats())
        remember(LoadStats(nbytes=2))
        found.append(load_stats())

    mine = remember(LoadStats(nbytes=1))
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [None, LoadStats(nbytes=2)]
    assert load_stats() is mine
