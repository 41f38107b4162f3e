"""Events: what they order, what they say, what they refuse."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    EVENT_SYNC_TIMEOUT,
    H2D,
    INVALID_HANDLE,
    PARAM_INVALID,
    STREAM_CONTEXT,
    TIMESTAMP_INVALID,
    Runtime,
    put,
)

MADE: dict[str, tuple[Any, ...]] = {
    "plain": ("aclrtCreateEvent",), "flag": ("aclrtCreateEventWithFlag", 0x9),
    "ex": ("aclrtCreateEventExWithFlag", 0x9),
}  # fmt: skip


def busy(runtime: Runtime, stream: int) -> int:
    """A copy in the stream; where it goes."""
    host, device = runtime.malloc_host(4096), runtime.malloc(4096)
    put(host, b"e" * 4096)
    assert runtime.copy_async(device, host, 4096, H2D, stream) == 0
    return device


@pytest.mark.parametrize("how", MADE)
def test_an_event_passes_after_the_work_before_it(simulate: Simulate, how: str) -> None:
    runtime = simulate()
    event, stream = runtime.made(*MADE[how]), runtime.stream()
    assert runtime.number("aclrtQueryEventStatus", event) == 1, "never recorded: complete"
    runtime.ok("aclrtSynchronizeEvent", event)
    with runtime.held(stream):
        device = busy(runtime, stream)
        runtime.ok("aclrtRecordEvent", event, stream)
        assert runtime.number("aclrtQueryEventStatus", event) == 0
    runtime.ok("aclrtSynchronizeEvent", event)
    assert runtime.number("aclrtQueryEventStatus", event) == 1
    assert runtime.read(device, 4096) == b"e" * 4096
    runtime.ok("aclrtDestroyEvent", event)
    assert runtime.aclrtDestroyEvent(event) == INVALID_HANDLE
    assert runtime.aclrtRecordEvent(event, stream) == INVALID_HANDLE


def test_the_older_question_has_the_opposite_numbers(simulate: Simulate) -> None:
    runtime = simulate()
    event, stream = runtime.made("aclrtCreateEvent"), runtime.stream()
    assert runtime.number("aclrtQueryEvent", event) == 0
    with runtime.held(stream):
        runtime.ok("aclrtRecordEvent", event, stream)
        assert runtime.number("aclrtQueryEvent", event) == 1
    runtime.ok("aclrtSynchronizeEvent", event)
    assert runtime.number("aclrtQueryEvent", event) == 0


def test_the_latest_record_counts(simulate: Simulate) -> None:
    runtime = simulate()
    event, quick, slow = runtime.event(), runtime.stream(), runtime.stream()
    with runtime.held(slow):
        runtime.ok("aclrtRecordEvent", event, slow)
        runtime.ok("aclrtRecordEvent", event, quick)
        runtime.ok("aclrtSynchronizeEvent", event)


def test_ex_events_refuse_what_they_do_not_have(simulate: Simulate) -> None:
    runtime = simulate()
    event, stream = runtime.event(), runtime.stream()
    status = ctypes.byref(ctypes.c_int())
    assert runtime.aclrtQueryEvent(event, status) == PARAM_INVALID
    assert runtime.aclrtQueryEventWaitStatus(event, status) == PARAM_INVALID
    assert runtime.aclrtResetEvent(event, stream) == PARAM_INVALID


def test_a_plain_event_can_be_reset(simulate: Simulate) -> None:
    runtime = simulate()
    event, stream = runtime.made("aclrtCreateEvent"), runtime.stream()
    with runtime.held(stream):
        runtime.ok("aclrtRecordEvent", event, stream)
        assert runtime.number("aclrtQueryEventStatus", event) == 0
        runtime.ok("aclrtResetEvent", event, stream)
        assert runtime.number("aclrtQueryEventStatus", event) == 1


def test_a_stream_waits_for_an_event(simulate: Simulate) -> None:
    runtime = simulate()
    event, first, second = runtime.made("aclrtCreateEvent"), runtime.stream(), runtime.stream()
    with runtime.held(first):
        device = busy(runtime, first)
        runtime.ok("aclrtRecordEvent", event, first)
        runtime.ok("aclrtStreamWaitEvent", second, event)
        runtime.ok("aclrtMemsetAsync", device, 64, ord("2"), 64, second)
        assert runtime.number("aclrtQueryEventWaitStatus", event) == 1
        assert runtime.number("aclrtStreamQuery", second) == 1
    runtime.ok("aclrtSynchronizeStream", second)
    assert runtime.number("aclrtQueryEventWaitStatus", event) == 0
    assert runtime.read(device, 65) == b"2" * 64 + b"e"


def test_a_wait_is_for_what_was_recorded_before_it(simulate: Simulate) -> None:
    """A later record of the same event does not hold up who waited for the earlier one."""
    runtime = simulate()
    event, first, second = runtime.event(), runtime.stream(), runtime.stream()
    with runtime.held(first) as gate:
        runtime.ok("aclrtRecordEvent", event, first)
        runtime.ok("aclrtStreamWaitEvent", second, event)
        with runtime.held(first):
            runtime.ok("aclrtRecordEvent", event, first)
            gate.set()
            runtime.ok("aclrtSynchronizeStream", second)
            assert runtime.number("aclrtQueryEventStatus", event) == 0


def test_waiting_can_have_an_end(simulate: Simulate) -> None:
    runtime = simulate()
    event, stream = runtime.event(), runtime.stream()
    with runtime.held(stream):
        runtime.ok("aclrtRecordEvent", event, stream)
        assert runtime.aclrtSynchronizeEventWithTimeout(event, 10) == EVENT_SYNC_TIMEOUT


def test_flags_decide_what_an_event_is_for(simulate: Simulate) -> None:
    runtime = simulate()
    stream, ms = runtime.stream(), ctypes.c_float()
    timed = runtime.made("aclrtCreateEventExWithFlag", 0x8)
    synced = runtime.made("aclrtCreateEventExWithFlag", 0x1)
    assert runtime.aclrtStreamWaitEvent(stream, timed) == PARAM_INVALID
    for event in (timed, synced):
        runtime.ok("aclrtRecordEvent", event, stream)
        runtime.ok("aclrtSynchronizeEvent", event)
    for pair in [(timed, synced), (synced, timed)]:
        assert runtime.aclrtEventElapsedTime(ctypes.byref(ms), *pair) == TIMESTAMP_INVALID
    assert runtime.aclrtEventElapsedTime(ctypes.byref(ms), timed, timed) == 0
    assert ms.value == 0


def test_time_between_events(simulate: Simulate) -> None:
    runtime = simulate(latency_us=20_000)
    stream, ms, us = runtime.stream(), ctypes.c_float(), ctypes.c_uint64()
    start, end = runtime.event(), runtime.event()
    runtime.ok("aclrtRecordEvent", start, stream)
    runtime.ok("aclrtSynchronizeEvent", start)
    busy(runtime, stream)
    runtime.ok("aclrtRecordEvent", end, stream)
    runtime.ok("aclrtSynchronizeStream", stream)
    runtime.ok("aclrtEventElapsedTime", ctypes.byref(ms), start, end)
    assert ms.value >= 19
    runtime.ok("aclrtEventGetTimestamp", end, ctypes.byref(us))
    assert us.value > 0
    fresh = runtime.event()
    assert runtime.aclrtEventElapsedTime(ctypes.byref(ms), start, fresh) == TIMESTAMP_INVALID


def test_events_belong_to_a_device(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    event, stream = runtime.event(), runtime.stream()
    runtime.ok("aclrtSetDevice", 1)
    other_event, other_stream = runtime.event(), runtime.stream()
    assert runtime.aclrtRecordEvent(event, other_stream) == STREAM_CONTEXT
    assert runtime.aclrtRecordEvent(other_event, stream) == STREAM_CONTEXT
    assert runtime.aclrtStreamWaitEvent(other_stream, event) == STREAM_CONTEXT
    assert runtime.aclrtSynchronizeStream(stream) == STREAM_CONTEXT
    runtime.ok("aclrtRecordEvent", other_event, other_stream)
    runtime.ok("aclrtSynchronizeStream", other_stream)


def test_an_event_may_be_destroyed_before_it_has_passed(simulate: Simulate) -> None:
    runtime = simulate(delay_us=20_000)
    first, second = runtime.stream(), runtime.stream()
    for _ in range(50):
        event = runtime.event()
        runtime.ok("aclrtRecordEvent", event, first)
        runtime.ok("aclrtStreamWaitEvent", second, event)
        runtime.ok("aclrtDestroyEvent", event)
    runtime.ok("aclrtSynchronizeStream", second)
    assert runtime.live()["events"] == 0
