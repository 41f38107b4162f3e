"""What a load is told to take, from what its stages take alone. Pure: seconds in, seconds out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptfmt.bench.candidates import candidates, thread_counts
from ckptfmt.bench.in_turn import Measurement
from ckptfmt.bench.judgement import judge
from ckptfmt.bench.pipeline import Rates, Way, forecast, overhead_of
from ckptfmt.bench.raw_reads import Sample
from ckptfmt.options import LoadOptions

GB = 10**9
RING = Way(direct=True, ring=True, threads=2, depth=8, op_nbytes=4 << 20, verify=True)
PREAD = replace(RING, ring=False, depth=1)
CACHED = replace(PREAD, direct=False)
DISK = Rates(read=1 / GB, read_cpu=0.1 / GB, read_alone=1.5 / GB, checksum=0.5 / GB, processors=2)


def test_what_overlaps_takes_as_long_as_the_slowest() -> None:
    found = forecast(RING, DISK, GB)
    assert found.seconds == pytest.approx(1.0)
    assert found.limit == "disk"
    assert found.stages == pytest.approx({"disk": 1.0, "checksum": 0.25})
    slow = forecast(RING, replace(DISK, checksum=4 / GB), GB)
    assert (slow.limit, slow.seconds) == ("checksum", pytest.approx(2.05))  # and what reads compute


def test_what_one_thread_does_adds_up() -> None:
    one = replace(PREAD, threads=1)
    rates = replace(DISK, read=1.5 / GB)
    assert forecast(one, rates, GB).seconds == pytest.approx(2.0)
    # Two threads that each wait by themselves, on a disk that has room for both.
    assert forecast(PREAD, replace(DISK, read=0.75 / GB), GB).seconds == pytest.approx(1.0)
    # A disk that is busy all the time is what all wait for.
    assert forecast(PREAD, replace(DISK, read=1.4 / GB), GB).seconds == pytest.approx(1.4)


def test_what_the_page_cache_has_is_copied_by_the_processors() -> None:
    rates = replace(DISK, read=0.2 / GB, read_cpu=0.4 / GB, read_alone=0.3 / GB, cached=True)
    found = forecast(CACHED, rates, GB)
    assert (found.limit, found.seconds) == ("checksum", pytest.approx(0.45))
    unverified = forecast(replace(CACHED, verify=False), rates, GB)
    assert (unverified.limit, unverified.seconds) == ("page cache", pytest.approx(0.2))


def test_a_link_goes_on_by_itself_unless_it_is_waited_for() -> None:
    rates = replace(DISK, link=3 / GB)
    assert forecast(RING, rates, GB).seconds == pytest.approx(3.0)
    waiting = replace(RING, waits_for_copies=True)
    # Of two threads, each reads, sums up and copies half of it.
    assert forecast(waiting, rates, GB).seconds == pytest.approx(3.0)
    one = replace(waiting, threads=1)
    assert forecast(one, rates, GB).seconds == pytest.approx(1.5 + 0.5 + 3.0)


def test_what_no_stage_accounts_for_stays() -> None:
    assert overhead_of(RING, DISK, GB, measured=1.25) == pytest.approx(0.25)
    assert overhead_of(RING, DISK, GB, measured=0.9) == 0.0
    found = forecast(replace(RING, verify=False), DISK, GB, 0.25)
    assert found.seconds == pytest.approx(1.25)
    assert found.stages["overhead"] == 0.25
    assert forecast(RING, DISK, GB, 5.0).limit == "overhead"


@pytest.mark.parametrize(
    ("processors", "counts"), [(1, (1, 2)), (2, (1, 2, 4)), (64, (1, 2, 4, 8, 16))]
)
def test_thread_counts(processors: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(processors) == counts


def test_candidates_change_one_thing_each() -> None:
    found = candidates(LoadOptions(), RING, processors=2, can_ring=True, can_direct=True)
    assert found[0].way == RING
    assert not found[0].setting
    settings = {(c.setting, c.value) for c in found[1:]}
    assert ("threads", "2") not in settings  # that is how it is
    assert {("threads", "4"), ("depth", "16"), ("op_nbytes", "2MiB"), ("reads", "buffered"),
            ("io", "pread"), ("verify", "off")} <= settings  # fmt: skip
    for candidate in found[1:]:
        assert candidate.way != RING
        if candidate.setting not in ("verify", "threads"):
            assert candidate.options.threads == RING.threads
    assert next(c for c in found if c.setting == "threads").environment == "CKPTFMT_THREADS=1"
    assert next(c for c in found if c.setting == "verify").environment == ""


def test_candidates_where_little_can_be_had() -> None:
    found = candidates(LoadOptions(), CACHED, processors=2, can_ring=False, can_direct=False)
    assert {c.setting for c in found[1:]} == {"threads", "op_nbytes", "verify"}
    found = candidates(LoadOptions(), CACHED, processors=2, can_ring=False, can_direct=True)
    direct = next(c for c in found if c.setting == "reads")
    assert (direct.value, direct.way.ring, direct.way.depth) == ("direct", False, 1)


def _measured(name: str, kind: str, gb_s: float, **params: object) -> Measurement:
    sample = Sample(nbytes=GB, seconds=1 / gb_s, cpu_seconds=0.05 / gb_s)
    return Measurement(name, name, kind, lambda: sample, params=dict(params), samples=[sample] * 3)


def test_one_slow_thread_is_named_before_the_disk() -> None:
    way = replace(PREAD, threads=1)
    tried = candidates(LoadOptions(), way, processors=2, can_ring=False, can_direct=True)
    reads = {}
    for candidate in [c for one in tried for c in (one, one.alone())]:
        rate = 0.5 * min(candidate.way.threads, 4)
        reads[candidate.reads] = _measured(str(candidate.reads), "disk", rate)
    checksums = [_measured(f"c{n}", "checksum", 4.5 * n, threads=n) for n in (1, 2)]
    load = _measured("load", "load", 0.45)
    found = judge(tried, reads, [], checksums, [], load, GB, cached=False)
    assert found.limit["id"] == "threads"
    assert found.limit["what"] == "threads (1)"
    assert "CKPTFMT_THREADS=4" in found.limit["advice"]
    best = found.gains[0]
    assert (best.setting, best.value) == ("threads", "4")
    assert best.predicted_gain == pytest.approx(2.6, rel=0.05)


def test_a_disk_that_is_busy_is_the_limit() -> None:
    tried = candidates(LoadOptions(), RING, processors=2, can_ring=True, can_direct=True)
    reads: dict[tuple[object, ...], Measurement] = {
        candidate.reads: _measured(str(candidate.reads), "disk", 1.0)
        for one in tried for candidate in (one, one.alone())
    }  # fmt: skip
    checksums = [_measured(f"c{n}", "checksum", 4.5 * n, threads=n) for n in (1, 2)]
    load = _measured("load", "load", 0.97)
    found = judge(tried, reads, [], checksums, [], load, GB, cached=False)
    assert (found.limit["id"], found.limit["what"]) == ("disk", "the disk")
    assert found.limit["reached"] == pytest.approx(0.97)
    assert all(gain.predicted_gain < 0.05 for gain in found.gains)
    assert reads[tried[0].reads].id == found.by


def test_what_checksums_take_is_what_reads_take_longer_with_them() -> None:
    """Sums of bytes that are in the processor's cache may cost next to nothing, or everything."""
    way = replace(CACHED, threads=2)
    tried = candidates(LoadOptions(), way, processors=2, can_ring=False, can_direct=False)
    reads = {
        c.reads: _measured(str(c.reads), "cache", 4.0) for one in tried for c in (one, one.alone())
    }
    checksums = [_measured(f"c{n}", "checksum", 4.5 * n, threads=n) for n in (1, 2)]
    for gb_s, gain in ((4.0, 0.0), (1.0, 3.0)):
        load = _measured("load", "load", gb_s)
        together = [_measured("reads-verified", "cache", gb_s)]
        found = judge(tried, reads, together, checksums, [], load, GB, cached=True)
        unverified = next(g for g in found.gains if g.setting == "verify")
        assert unverified.predicted_gain == pytest.approx(gain, abs=0.05)
        assert found.limit["id"] == ("checksum" if gain else "page cache")
