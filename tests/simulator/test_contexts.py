"""Starting, devices and contexts, which threads have."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.children import run_child
from tests.helpers.simulator import environment
from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    CONTEXT_NULL,
    H2D,
    INVALID_DEVICEID,
    PAGE,
    PARAM_INVALID,
    REPEAT_FINALIZE,
    REPEAT_INITIALIZE,
    STREAM_CONTEXT,
    UNINITIALIZE,
    Pages,
    Runtime,
)


def in_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_the_runtime_has_to_be_started(simulate: Simulate) -> None:
    runtime = simulate(started=False)
    assert runtime.aclrtSetDevice(0) == UNINITIALIZE
    assert runtime.aclFinalize() == UNINITIALIZE
    assert runtime.aclInit(None) == 0
    assert runtime.aclInit(b"other.json") == REPEAT_INITIALIZE
    assert runtime.aclrtSetDevice(0) == 0
    assert runtime.aclFinalize() == 0
    assert runtime.aclFinalize() == REPEAT_FINALIZE
    found = ctypes.c_void_p()
    assert runtime.aclrtMalloc(ctypes.byref(found), 64, 0) == CONTEXT_NULL


def test_it_may_end_by_the_last_reference(simulate: Simulate) -> None:
    runtime = simulate(started=False)
    left = ctypes.c_uint64(99)
    runtime.ok("aclInit", None)
    assert runtime.aclInit(None) == REPEAT_INITIALIZE
    runtime.ok("aclFinalizeReference", ctypes.byref(left))
    assert left.value == 1
    runtime.ok("aclrtSetDevice", 0)
    runtime.ok("aclFinalizeReference", ctypes.byref(left))
    assert left.value == 0
    assert runtime.aclrtSetDevice(0) == UNINITIALIZE


def test_the_mode_the_chip_and_the_count_are_known_before(simulate: Simulate) -> None:
    ep = simulate(started=False, devices=3, soc="Ascend910_9392")
    rc = simulate(started=False, soc="Ascend310B4")
    assert [r.number("aclrtGetRunMode") for r in (ep, rc)] == [1, 0]
    assert [r.number("aclrtGetDeviceCount") for r in (ep, rc)] == [3, 1]
    assert ep.library.aclrtGetSocName() == b"Ascend910_9392"
    assert simulate(started=False, soc="Ascend310B4", run_mode="ep").number("aclrtGetRunMode") == 1


def test_contexts_are_per_thread(simulate: Simulate) -> None:
    runtime = simulate()
    stream, event, pages = runtime.stream(), runtime.event(), Pages(PAGE)
    host, device = runtime.malloc_host(64), runtime.malloc(64)
    place = ctypes.byref(ctypes.c_void_p())

    def without() -> dict[str, int]:
        return {
            name: getattr(runtime, name)(*arguments)
            for name, arguments in {
                "aclrtGetDevice": (place,), "aclrtGetCurrentContext": (place,),
                "aclrtMalloc": (place, 64, 0), "aclrtFree": (device,),
                "aclrtMallocHost": (place, 64), "aclrtFreeHost": (host,),
                "aclrtHostRegisterV2": (pages.address, PAGE, 2),
                "aclrtHostUnregister": (pages.address,),
                "aclrtMemcpy": (device, 64, host, 64, H2D),
                "aclrtMemcpyAsync": (device, 64, host, 64, H2D, stream),
                "aclrtMemset": (device, 64, 0, 64), "aclrtMemsetAsync": (device, 64, 0, 64, stream),
                "aclrtCreateStream": (place,), "aclrtSynchronizeStream": (stream,),
                "aclrtStreamQuery": (stream, place), "aclrtDestroyStream": (stream,),
                "aclrtCreateEventExWithFlag": (place, 1), "aclrtRecordEvent": (event, stream),
                "aclrtStreamWaitEvent": (stream, event), "aclrtSynchronizeEvent": (event,),
                "aclrtQueryEventStatus": (event, place), "aclrtSynchronizeDevice": (),
                "aclrtGetMemInfo": (1, place, place),
            }.items()
        }  # fmt: skip

    found = in_thread(without)
    assert set(found.values()) == {CONTEXT_NULL}, found
    # Asking whether there is one is no mistake.
    assert runtime.account()["wrong_thread_calls"] == len(found) - 2

    def with_context() -> int:
        runtime.ok("aclrtSetDevice", 0)
        return runtime.copy_async(device, host, 64, H2D, stream)

    assert in_thread(with_context) == 0
    runtime.ok("aclrtSynchronizeStream", stream)


def test_a_context_can_be_handed_on(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    runtime.ok("aclrtSetDevice", 1)
    context = runtime.made("aclrtGetCurrentContext")

    def look() -> int:
        runtime.ok("aclrtSetCurrentContext", context)
        return runtime.number("aclrtGetDevice")

    assert in_thread(look) == 1


def test_contexts_of_ones_own(simulate: Simulate) -> None:
    runtime = simulate()
    primary, stream = runtime.made("aclrtGetCurrentContext"), runtime.stream()
    context = runtime.made("aclrtCreateContext", 0)
    assert runtime.made("aclrtGetCurrentContext") == context
    assert runtime.aclrtSynchronizeStream(stream) == STREAM_CONTEXT, "the same device is not enough"
    assert runtime.account()["devices"][0]["contexts"] == 2
    runtime.ok("aclrtDestroyContext", context)
    assert runtime.aclrtSynchronizeStream(stream) == CONTEXT_NULL
    assert runtime.aclrtDestroyContext(context) == PARAM_INVALID
    assert runtime.aclrtSetCurrentContext(context) == CONTEXT_NULL
    runtime.ok("aclrtSetCurrentContext", primary)
    runtime.ok("aclrtSynchronizeStream", stream)


def test_a_device_is_reset_by_the_last_who_set_it(simulate: Simulate) -> None:
    runtime = simulate()
    runtime.ok("aclrtSetDevice", 0)
    runtime.ok("aclrtResetDevice", 0)
    runtime.ok("aclrtFree", runtime.malloc(64))
    runtime.ok("aclrtResetDevice", 0)
    assert runtime.aclrtResetDevice(0) == CONTEXT_NULL
    found = ctypes.c_void_p()
    assert runtime.aclrtMalloc(ctypes.byref(found), 64, 0) == CONTEXT_NULL


@pytest.mark.parametrize(
    ("visible", "physical"),
    [
        ("0,2", [0, 2]), ("3", [3]), ("", []), ("1,0", [1]), ("0,9", [0]), ("0, 1", [0]),
        ("0,x,2", [0]), ("1,2,3", [1, 2, 3]), ("2,2", [2]),
    ],
)  # fmt: skip
def test_visible_devices(simulate: Simulate, visible: str, physical: list[int]) -> None:
    runtime = simulate(devices=4, visible_devices=visible, started=False)
    assert [d["physical"] for d in runtime.account()["devices"]] == physical
    assert runtime.number("aclrtGetDeviceCount") == len(physical)
    runtime.ok("aclInit", None)
    assert runtime.aclrtSetDevice(len(physical)) == INVALID_DEVICEID
    assert runtime.aclrtSetDevice(-1) == INVALID_DEVICEID
    if physical:
        runtime.ok("aclrtSetDevice", len(physical) - 1)
        assert runtime.number("aclrtGetDevice") == len(physical) - 1


def test_two_devices_are_apart(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    first = runtime.malloc(4096)
    runtime.ok("aclrtSetDevice", 1)
    second = runtime.malloc(8192)
    runtime.write(first, b"1" * 4096)
    runtime.write(second, b"2" * 4096)
    assert runtime.read(first, 4096) == b"1" * 4096
    assert [d["used_nbytes"] for d in runtime.account()["devices"]] == [4096 + 32, 8192 + 32]


def test_nothing_works_after_a_fork() -> None:
    child = run_child(
        """
import os, sys
from tests.simulator.runtime import Runtime
runtime = Runtime("libascendcl.so").start()
runtime.malloc(64)
pid = os.fork()
if pid == 0:
    code = runtime.aclrtSetDevice(0)
    os.write(1, f"child {code} {runtime.message()}\\n".encode())
    sys.exit(0)
os.waitpid(pid, 0)
runtime.malloc(64)
""",
        **environment(),
    )
    assert child.stderr == ""
    assert child.stdout == "child 507899 aclrtSetDevice: the runtime cannot be used after fork\n"


def test_a_child_of_a_parent_that_never_started_it_may(simulate: Simulate) -> None:
    child = run_child(
        """
import os
from tests.simulator.runtime import Runtime
runtime = Runtime("libascendcl.so")
runtime.number("aclrtGetDeviceCount")
pid = os.fork()
if pid == 0:
    runtime.start().malloc(64)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        **environment(),
    )
    assert (child.stdout, child.stderr) == ("7\n", "")


def test_starting_a_device_may_take_its_time(simulate: Simulate) -> None:
    """And only the first time; another thread that wants it waits as well."""
    runtime = simulate(started=False, start_ms=200)
    runtime.ok("aclInit", None)
    order: list[str] = []
    began = time.monotonic()

    def start(name: str, runtime: Runtime = runtime) -> None:
        runtime.ok("aclrtSetDevice", 0)
        runtime.malloc(64)
        order.append(name)

    threads = [threading.Thread(target=start, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == ["a", "b"]
    assert time.monotonic() - began >= 0.2
