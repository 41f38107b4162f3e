"""Links as fast as they are told to be. Nothing here fails because a machine is slow."""

from __future__ import annotations

import threading
import time

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import D2D, D2H, H2D, MiB, Runtime, put


def seconds_of(runtime: Runtime, kind: int, *, streams: int = 1, copies: int = 4) -> float:
    """The time of some copies of 2 MiB in each of some streams."""
    host, device = runtime.malloc_host(2 * MiB), runtime.malloc(2 * MiB)
    made = [runtime.stream() for _ in range(streams)]
    dst, src = (device, host) if kind == H2D else (host, device)
    start = time.monotonic()
    for _ in range(copies):
        for stream in made:
            assert runtime.copy_async(dst, src, 2 * MiB, kind, stream) == 0
    runtime.ok("aclrtSynchronizeDevice")
    return time.monotonic() - start


@pytest.mark.parametrize("kind", [H2D, D2H])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_link_is_no_faster_than_it_is_told(simulate: Simulate, kind: int, streams: int) -> None:
    """Streams of one device share it."""
    runtime = simulate(**{"h2d" if kind == H2D else "d2h": 0.2})
    copies = 12 // streams
    assert seconds_of(runtime, kind, streams=streams, copies=copies) >= 24 * MiB / 0.2e9


def test_synchronous_copies_are_paced_too(simulate: Simulate) -> None:
    runtime = simulate(h2d=0.1)
    host, device = runtime.malloc_host(4 * MiB), runtime.malloc(4 * MiB)
    start = time.monotonic()
    assert runtime.copy(device, host, 4 * MiB, H2D) == 0
    assert time.monotonic() - start >= 4 * MiB / 0.1e9


def test_each_copy_has_its_latency(simulate: Simulate) -> None:
    assert seconds_of(simulate(latency_us=20_000), H2D, copies=5) >= 0.1


def test_the_rate_can_change_while_running(simulate: Simulate) -> None:
    runtime = simulate(h2d=1000)
    seconds_of(runtime, H2D)
    runtime.set("h2d", 0.1)
    assert seconds_of(runtime, H2D, copies=2) >= 4 * MiB / 0.1e9


def test_links_are_one_for_each_device_and_direction(simulate: Simulate) -> None:
    """Everything else is done while one link of one device is still busy with its first bytes."""
    runtime = simulate(h2d="0.00001,0", devices=2)
    host, device = runtime.malloc_host(MiB), runtime.malloc(MiB)
    slow, quick = runtime.stream(), runtime.stream()
    assert runtime.copy_async(device, host, MiB, H2D, slow) == 0
    assert runtime.copy_async(host, device, MiB, D2H, quick) == 0
    assert runtime.copy_async(device, device, MiB, D2D, quick) == 0
    runtime.ok("aclrtSynchronizeStream", quick)
    runtime.ok("aclrtSetDevice", 1)
    other, other_stream = runtime.malloc(MiB), runtime.stream()
    assert runtime.copy_async(other, host, MiB, H2D, other_stream) == 0
    runtime.ok("aclrtSynchronizeStream", other_stream)
    runtime.ok("aclrtSetDevice", 0)
    assert runtime.number("aclrtStreamQuery", slow) == 1


def test_work_begins_no_earlier_than_its_delay(simulate: Simulate) -> None:
    """Which is not added up."""
    runtime = simulate(delay_us=100_000)
    stream, device = runtime.stream(), runtime.malloc(64)
    for set_delay in (100_000, 0):
        runtime.set("delay_us", set_delay)
        began = time.monotonic()
        runtime.ok("aclrtMemsetAsync", device, 64, 1, 64, stream)
        runtime.ok("aclrtSynchronizeStream", stream)
        assert time.monotonic() - began >= set_delay / 1e6


def test_bytes_arrive_piece_by_piece(simulate: Simulate) -> None:
    """The last MiB is not there when the first is; a new rate goes for the pieces to come."""
    runtime = simulate(h2d=0.005)
    host, device, stream = runtime.malloc_host(16 * MiB), runtime.malloc(16 * MiB), runtime.stream()
    put(host, b"p" * (16 * MiB))
    assert runtime.copy_async(device, host, 16 * MiB, H2D, stream) == 0
    while runtime.read(device, 1) != b"p":
        time.sleep(0.001)
    assert runtime.read(device + 15 * MiB, 1) == b"\0"
    runtime.set("h2d", 0)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device + 15 * MiB, 1) == b"p"


def test_visible_devices_keep_their_own_rates(simulate: Simulate) -> None:
    runtime = simulate(devices=2, visible_devices="1", h2d="0,0.1")
    assert seconds_of(runtime, H2D, copies=2) >= 4 * MiB / 0.1e9


def test_memory_can_be_freed_while_its_bytes_go_over(simulate: Simulate) -> None:
    runtime = simulate(h2d=0.02)
    host, device, stream = runtime.malloc_host(8 * MiB), runtime.malloc(8 * MiB), runtime.stream()
    assert runtime.copy_async(device, host, 8 * MiB, H2D, stream) == 0
    thread = threading.Thread(target=lambda: runtime.start().ok("aclrtFreeHost", host))
    thread.start()
    thread.join()
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.account()["violation_count"] == 1
