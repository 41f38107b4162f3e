"""Streams: work is done late, in order, and its failures are told."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    D2H,
    H2D,
    INVALID_HANDLE,
    NO_EVENT_RESOURCE,
    NO_STREAM_RESOURCE,
    PAGE,
    POISON,
    STREAM_SYNC_TIMEOUT,
    MiB,
    Pages,
    Runtime,
    put,
)


def moved(runtime: Runtime, stream: int, data: bytes) -> tuple[int, int]:
    """Pinned host memory with `data`, device memory of that size, a copy queued between them."""
    host, device = runtime.malloc_host(len(data)), runtime.malloc(len(data))
    put(host, data)
    assert runtime.copy_async(device, host, len(data), H2D, stream) == 0
    return host, device


def test_bytes_land_when_the_stream_gets_to_them(simulate: Simulate) -> None:
    runtime = simulate()
    stream, data = runtime.stream(), os.urandom(MiB)
    with runtime.held(stream):
        _, device = moved(runtime, stream, data)
        assert runtime.read(device, MiB) == bytes(MiB), "a missing wait shows"
        assert runtime.number("aclrtStreamQuery", stream) == 1
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, MiB) == data
    assert runtime.number("aclrtStreamQuery", stream) == 0


def test_source_memory_is_read_late(simulate: Simulate) -> None:
    runtime = simulate()
    stream = runtime.stream()
    with runtime.held(stream):
        host, device = moved(runtime, stream, b"a" * 4096)
        put(host, b"b" * 4096)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 4096) == b"b" * 4096, "a slot used again too early shows"


def test_device_to_host_is_late_as_well(simulate: Simulate) -> None:
    runtime = simulate()
    stream, host, device = runtime.stream(), runtime.malloc_host(4096), runtime.malloc(4096)
    runtime.write(device, b"d" * 4096)
    with runtime.held(stream):
        assert runtime.copy_async(host, device, 4096, D2H, stream) == 0
        assert ctypes.string_at(host, 4096) == bytes(4096)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert ctypes.string_at(host, 4096) == b"d" * 4096


def test_a_stream_is_in_order(simulate: Simulate) -> None:
    runtime = simulate()
    stream, device, hosts = runtime.stream(), runtime.malloc(4096), []
    for i in range(200):
        hosts.append(runtime.malloc_host(64))
        put(hosts[-1], bytes([i]) * 64)
    for host in hosts:
        assert runtime.copy_async(device, host, 64, H2D, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 64) == bytes([199]) * 64


def test_the_default_stream_is_one(simulate: Simulate) -> None:
    runtime = simulate()
    host, device = runtime.malloc_host(64), runtime.malloc(64)
    put(host, b"n" * 64)
    with runtime.held(None):
        assert runtime.copy_async(device, host, 64, H2D, None) == 0
        assert runtime.number("aclrtStreamQuery", None) == 1
    runtime.ok("aclrtSynchronizeDevice")
    assert runtime.read(device, 64) == b"n" * 64
    assert runtime.aclrtDestroyStream(None) == INVALID_HANDLE


def test_streams_do_not_wait_for_each_other(simulate: Simulate) -> None:
    runtime = simulate()
    slow, quick = runtime.stream(), runtime.stream()
    with runtime.held(slow):
        _, device = moved(runtime, slow, b"s" * 64)
        runtime.ok("aclrtMemsetAsync", runtime.malloc(64), 64, 5, 64, quick)
        runtime.ok("aclrtSynchronizeStream", quick)
        assert runtime.number("aclrtStreamQuery", slow) == 1
        assert runtime.read(device, 64) == bytes(64)


def test_the_whole_device_can_be_waited_for(simulate: Simulate) -> None:
    runtime = simulate(latency_us=1000)
    data = [os.urandom(4096) for _ in range(5)]
    devices = [moved(runtime, runtime.stream(), text)[1] for text in data]
    runtime.ok("aclrtSynchronizeDevice")
    assert [runtime.read(device, 4096) for device in devices] == data


def test_waiting_can_have_an_end(simulate: Simulate) -> None:
    runtime = simulate()
    stream = runtime.stream()
    with runtime.held(stream):
        assert runtime.aclrtSynchronizeStreamWithTimeout(stream, 10) == STREAM_SYNC_TIMEOUT
        assert runtime.aclrtSynchronizeDeviceWithTimeout(10) == STREAM_SYNC_TIMEOUT
        assert "not done after 10 ms" in runtime.message()


def test_destroying_a_stream_does_its_work_first(simulate: Simulate) -> None:
    runtime = simulate(delay_us=20_000)
    stream = runtime.stream()
    _, device = moved(runtime, stream, b"w" * 4096)
    runtime.ok("aclrtDestroyStream", stream)
    assert runtime.read(device, 4096) == b"w" * 4096
    for name in ("aclrtSynchronizeStream", "aclrtDestroyStream"):
        assert getattr(runtime, name)(stream) == INVALID_HANDLE
    assert runtime.live()["streams"] == 0


def test_or_drops_it_by_force(simulate: Simulate) -> None:
    runtime = simulate()
    stream, other, event = runtime.stream(), runtime.stream(), runtime.event()
    with runtime.held(stream):
        _, device = moved(runtime, stream, b"w" * 64)
        runtime.ok("aclrtRecordEvent", event, stream)
        runtime.ok("aclrtStreamWaitEvent", other, event)
        runtime.ok("aclrtDestroyStreamForce", stream)
    runtime.ok("aclrtSynchronizeEvent", event)
    runtime.ok("aclrtSynchronizeStream", other)
    assert runtime.read(device, 64) == bytes(64)


@pytest.mark.parametrize("which", ["source", "destination"])
@pytest.mark.parametrize("way", ["h2d", "d2h"])
def test_memory_freed_under_a_queued_copy_is_a_violation(
    simulate: Simulate, which: str, way: str
) -> None:
    runtime = simulate()
    stream, host, device = runtime.stream(), runtime.malloc_host(4096), runtime.malloc(4096)
    dst, src, kind = (device, host, H2D) if way == "h2d" else (host, device, D2H)
    gone = src if which == "source" else dst
    with runtime.held(stream):
        assert runtime.copy_async(dst, src, 4096, kind, stream) == 0
        runtime.ok("aclrtFree" if gone == device else "aclrtFreeHost", gone)
    runtime.ok("aclrtSynchronizeStream", stream)
    found = runtime.account()
    assert found["violations"] == [
        f"aclrtMemcpyAsync: the {which} was freed or unregistered before the copy had run, "
        "0 of 4096 bytes"
    ]
    assert found["violation_count"] == 1
    if which == "source":
        left = ctypes.string_at(host, 4096) if way == "d2h" else runtime.read(device, 4096)
        assert left == bytes([POISON]) * 4096


def test_memory_that_was_allocated_anew_meanwhile_is_overwritten(simulate: Simulate) -> None:
    runtime = simulate(memory="16M")
    stream = runtime.stream()
    with runtime.held(stream):
        _, device = moved(runtime, stream, b"q" * (4 * MiB))
        runtime.ok("aclrtFree", device)
        while (again := runtime.malloc(4 * MiB)) != device:
            runtime.ok("aclrtFree", again)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(again, 64) == bytes([POISON]) * 64
    assert runtime.account()["violation_count"] == 1


def test_memory_unregistered_under_a_queued_copy_is_a_violation(simulate: Simulate) -> None:
    runtime = simulate()
    stream, device, pages = runtime.stream(), runtime.malloc(PAGE), Pages(PAGE)
    runtime.ok("aclrtHostRegisterV2", pages.address, PAGE, 2)
    with runtime.held(stream):
        assert runtime.copy_async(device, pages.address, PAGE, H2D, stream) == 0
        runtime.ok("aclrtHostUnregister", pages.address)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, PAGE) == bytes([POISON]) * PAGE
    assert "source was freed or unregistered" in runtime.account()["violations"][0]


def test_memory_unmapped_under_a_queued_copy_is_a_violation(simulate: Simulate) -> None:
    runtime = simulate()
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(PAGE), 3, 0x22, -1, ctypes.c_long(0))
    stream, device = runtime.stream(), runtime.malloc(PAGE)
    runtime.ok("aclrtHostRegisterV2", address, PAGE, 2)
    with runtime.held(stream):
        assert runtime.copy_async(device, address, PAGE, H2D, stream) == 0
        assert libc.munmap(address, PAGE) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, PAGE) == bytes([POISON]) * PAGE
    assert "registered memory was unmapped" in runtime.account()["violations"][0]


def test_a_failure_of_queued_work_is_told_by_the_next_wait(simulate: Simulate) -> None:
    runtime = simulate(fail="@aclrtMemcpyAsync:2=507052")
    stream, event = runtime.stream(), runtime.event()
    devices = [moved(runtime, stream, b"f" * 64)[1] for _ in range(3)]
    runtime.ok("aclrtRecordEvent", event, stream)
    assert runtime.aclrtSynchronizeEvent(event) == 507052
    assert "aclrtMemcpyAsync has failed while it ran" in runtime.message()
    assert runtime.aclrtQueryEventStatus(event, ctypes.byref(ctypes.c_int())) == 507052
    assert runtime.aclrtStreamQuery(stream, ctypes.byref(ctypes.c_int())) == 507052
    assert runtime.aclrtSynchronizeStream(stream) == 507052
    runtime.ok("aclrtSynchronizeStream", stream)
    runtime.ok("aclrtRecordEvent", event, stream)
    runtime.ok("aclrtSynchronizeEvent", event)
    assert [runtime.read(device, 1) for device in devices] == [b"f", b"\0", b"f"]


def test_a_failure_is_told_by_a_wait_for_the_device(simulate: Simulate) -> None:
    runtime = simulate(fail="@aclrtMemsetAsync:1=507013")
    stream, device = runtime.stream(), runtime.malloc(64)
    runtime.ok("aclrtMemsetAsync", device, 64, 1, 64, stream)
    assert runtime.aclrtSynchronizeDevice() == 507013
    runtime.ok("aclrtSynchronizeDevice")


def test_a_stream_can_stop_at_a_failure(simulate: Simulate) -> None:
    runtime = simulate(fail="@aclrtMemcpyAsync:1=507052")
    stream = runtime.stream()
    runtime.ok("aclrtSetStreamFailureMode", stream, 1)
    devices = [moved(runtime, stream, b"f" * 64)[1] for _ in range(2)]
    assert runtime.aclrtSynchronizeStream(stream) == 507052
    assert runtime.read(devices[1], 64) == bytes(64)


def test_functions_of_the_host_run_in_order(simulate: Simulate) -> None:
    runtime = simulate()
    stream, seen = runtime.stream(), []
    host, device = runtime.malloc_host(64), runtime.malloc(64)
    put(host, b"h" * 64)

    def see(data: int | None) -> None:
        seen.append((data, ctypes.string_at(host, 4), threading.current_thread().name))

    look = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(see)
    runtime.ok("aclrtLaunchCallback", look, 1, 1, stream)
    runtime.write(device, b"i" * 64)
    assert runtime.copy_async(host, device, 64, D2H, stream) == 0
    runtime.ok("aclrtLaunchHostFunc", stream, look, 2)
    runtime.ok("aclrtSynchronizeStream", stream)
    assert [entry[:2] for entry in seen] == [(1, b"hhhh"), (2, b"iiii")]
    assert threading.current_thread().name not in {entry[2] for entry in seen}


def test_many_threads_and_streams(simulate: Simulate) -> None:
    """Eight threads, each with a stream and slots of its own, and events in both directions."""
    runtime = simulate(latency_us=50)
    n, rounds, size = 8, 40, 64 << 10
    wrong: list[str] = []

    def work(number: int) -> None:
        runtime.ok("aclrtSetDevice", 0)
        stream, event = runtime.stream(), runtime.event()
        slots = [runtime.malloc_host(size) for _ in range(2)]
        target = runtime.malloc(rounds * size)
        events = [runtime.event() for _ in slots]
        for i in range(rounds):
            slot = i % 2
            runtime.ok("aclrtSynchronizeEvent", events[slot])
            put(slots[slot], bytes([number * 29 + i & 255]) * size)
            code = runtime.copy_async(target + i * size, slots[slot], size, H2D, stream)
            if code:
                wrong.append(runtime.message())
            runtime.ok("aclrtRecordEvent", events[slot], stream)
        runtime.ok("aclrtRecordEvent", event, stream)
        runtime.ok("aclrtSynchronizeEvent", event)
        for i in range(rounds):
            if runtime.read(target + i * size, size) != bytes([number * 29 + i & 255]) * size:
                wrong.append(f"thread {number}, copy {i}")
        for one in (event, *events):
            runtime.ok("aclrtDestroyEvent", one)
        for slot in slots:
            runtime.ok("aclrtFreeHost", slot)
        runtime.ok("aclrtFree", target)
        runtime.ok("aclrtDestroyStream", stream)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(runtime.live().values()) == {0}
    assert runtime.account()["h2d_nbytes"] == n * rounds * size


def test_streams_and_events_are_limited(simulate: Simulate) -> None:
    runtime = simulate()
    streams = [runtime.stream() for _ in range(1984)]
    place = ctypes.byref(ctypes.c_void_p())
    assert runtime.aclrtCreateStream(place) == NO_STREAM_RESOURCE
    runtime.ok("aclrtDestroyStream", streams.pop())
    runtime.stream()
    create = runtime.aclrtCreateEventExWithFlag
    assert {create(place, 1) for _ in range(65536)} == {0}
    assert create(place, 1) == NO_EVENT_RESOURCE
