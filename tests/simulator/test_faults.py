"""Failures on command, settings, and the texts of errors."""

from __future__ import annotations

import ctypes
import threading

import pytest

from tests.helpers.children import run_child
from tests.helpers.simulator import environment
from tests.simulator.conftest import Simulate
from tests.simulator.runtime import H2D, INVALID_HANDLE, PARAM_INVALID, Runtime


def mallocs(runtime: Runtime, n: int) -> list[int]:
    return [runtime.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), 64, 0) for _ in range(n)]


@pytest.mark.parametrize(
    ("rules", "codes"),
    [
        ("aclrtMalloc:2=207001", [0, 207001, 0, 0]),
        ("aclrtMalloc:2+=207001", [0, 207001, 207001, 207001]),
        ("aclrtMalloc:*=507899", [507899] * 4),
        ("aclrtMalloc:1=1,aclrtMalloc:3=3", [1, 0, 3, 0]),
        ("aclrtFree:1=1", [0] * 4),
    ],
)
def test_the_nth_call_fails(simulate: Simulate, rules: str, codes: list[int]) -> None:
    runtime = simulate(fail=rules)
    assert mallocs(runtime, 4) == codes
    found = runtime.account()
    assert found["injected"] == len([code for code in codes if code])
    assert len(found["live"]["device"]) == codes.count(0), "a call that fails does nothing"


def test_rules_can_be_set_while_running_and_count_from_there(simulate: Simulate) -> None:
    runtime = simulate()
    assert mallocs(runtime, 3) == [0, 0, 0]
    runtime.fail("aclrtMalloc:2=207001")
    assert mallocs(runtime, 3) == [0, 207001, 0]
    runtime.fail("")
    assert mallocs(runtime, 3) == [0, 0, 0]


@pytest.mark.parametrize(
    "rules",
    [
        "aclrtMaloc:1=1", "aclrtMalloc", "aclrtMalloc:1", "aclrtMalloc:0=1", "aclrtMalloc:x=1",
        "aclrtMalloc:1=", "aclrtMalloc:1=0", "aclrtMalloc:1=x", "aclrtMalloc:1++=2",
        "@aclrtMalloc:1=1", "aclrtMalloc=1:1", "aclrtMalloc:1=1,nonsense",
    ],
)  # fmt: skip
def test_bad_rules_change_nothing(simulate: Simulate, rules: str) -> None:
    runtime = simulate(fail="aclrtMalloc:2=207001")
    with pytest.raises(ValueError, match="not understood"):
        runtime.fail(rules)
    assert mallocs(runtime, 2) == [0, 207001]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACLSIM_FAIL", "aclrtMaloc:1=1"), ("ACLSIM_DEVICES", "many"), ("ACLSIM_DEVICES", "17"),
        ("ACLSIM_MEMORY", "-1"), ("ACLSIM_MEMORY", "0"), ("ACLSIM_H2D", "fast"),
        ("ACLSIM_H2D", "1,x"), ("ACLSIM_RUN_MODE", "xp"), ("ACLSIM_BACKING", "wood"),
        ("ACLSIM_ALIGNMENT", "63"), ("ACLSIM_UNPINNED", "maybe"), ("ACLSIM_DEVISES", "1"),
        ("ACLSIM_TRACE", "/nowhere/at/all"),
    ],
)  # fmt: skip
def test_a_setting_that_is_not_understood_ends_the_process(name: str, value: str) -> None:
    code = "import ctypes; ctypes.CDLL('libascendcl.so')"
    child = run_child(code, **environment(), **{name: value})
    assert child.returncode == -6
    assert f"aclsim: cannot understand {name}={value}\n" in child.stderr


@pytest.mark.parametrize(("name", "value"), [("devices", 2), ("h2d", "fast"), ("nothing", 1)])
def test_not_everything_can_be_set_while_running(
    simulate: Simulate, name: str, value: str | int
) -> None:
    with pytest.raises(ValueError, match="no such setting"):
        simulate().set(name, value)


def test_a_call_that_fails_has_no_effect(simulate: Simulate) -> None:
    runtime = simulate()
    host, device = runtime.malloc_host(64), runtime.malloc(64)
    stream, event = runtime.stream(), runtime.event()
    place = ctypes.byref(ctypes.c_void_p())
    for name, arguments in {
        "aclrtSetDevice": (0,), "aclrtMalloc": (place, 64, 0), "aclrtMallocHost": (place, 64),
        "aclrtCreateStream": (place,), "aclrtCreateEventExWithFlag": (place, 1),
        "aclrtMemcpyAsync": (device, 64, host, 64, H2D, stream),
        "aclrtMemcpy": (device, 64, host, 64, H2D), "aclrtRecordEvent": (event, stream),
        "aclrtStreamWaitEvent": (stream, event), "aclrtSynchronizeEvent": (event,),
        "aclrtSynchronizeStream": (stream,), "aclrtQueryEventStatus": (event, place),
        "aclrtGetRunMode": (place,), "aclrtGetMemInfo": (1, place, place),
        "aclrtFree": (device,), "aclrtFreeHost": (host,), "aclrtDestroyStream": (stream,),
        "aclrtDestroyEvent": (event,),
    }.items():  # fmt: skip
        before = runtime.live()
        runtime.fail(f"{name}:1=507899")
        assert getattr(runtime, name)(*arguments) == 507899, name
        assert runtime.message() == f"{name}: injected failure 507899"
        assert runtime.live() == before, name
        runtime.ok(name, *arguments)


def test_a_failing_name_is_none(simulate: Simulate) -> None:
    runtime = simulate(fail="aclrtGetSocName:1=507899")
    assert runtime.library.aclrtGetSocName() is None
    assert runtime.library.aclrtGetSocName() == b"Ascend910B3"


def test_texts_belong_to_a_thread_and_its_last_call(simulate: Simulate) -> None:
    runtime = simulate()
    assert runtime.library.aclGetRecentErrMsg() is None
    assert runtime.aclrtFree(64) == PARAM_INVALID
    others: list[str] = []
    thread = threading.Thread(target=lambda: others.append(runtime.message()))
    thread.start()
    thread.join()
    assert others == [""]
    assert runtime.message() == (
        "aclrtFree: 0x40 is not the start of device memory, or it was freed before"
    )
    runtime.ok("aclrtFree", runtime.malloc(64))
    assert runtime.message() == "", "the next call has taken it"


def test_a_text_that_is_kept_too_long_is_seen_to_be_gone(simulate: Simulate) -> None:
    runtime = simulate()
    runtime.library.aclGetRecentErrMsg.restype = ctypes.c_void_p
    assert runtime.aclrtFree(64) == PARAM_INVALID
    pointer = runtime.library.aclGetRecentErrMsg()
    runtime.malloc(64)
    assert set(ctypes.string_at(pointer)) == {ord("?")}


def test_the_last_error_is_kept_until_it_is_taken(simulate: Simulate) -> None:
    runtime = simulate()
    assert runtime.aclrtPeekAtLastError(0) == 0
    assert runtime.aclrtFree(64) == PARAM_INVALID
    runtime.malloc(64)
    assert runtime.aclrtPeekAtLastError(0) == PARAM_INVALID
    assert runtime.aclrtGetLastError(0) == PARAM_INVALID
    assert runtime.aclrtGetLastError(0) == 0


@pytest.mark.parametrize("handle", [0x40, None])
def test_what_is_no_handle_is_not_looked_into(simulate: Simulate, handle: int | None) -> None:
    runtime = simulate()
    for name, arguments in {
        "aclrtDestroyEvent": (), "aclrtRecordEvent": (None,), "aclrtSynchronizeEvent": (),
    }.items():  # fmt: skip
        assert getattr(runtime, name)(handle, *arguments) == INVALID_HANDLE
    if handle:
        assert runtime.aclrtSynchronizeStream(handle) == INVALID_HANDLE
