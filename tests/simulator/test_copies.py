"""Copies: what is refused, and with which code."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    ADDR_UNALIGNED,
    BUFFERED,
    D2D,
    D2H,
    DEFAULT,
    FEATURE_NOT_SUPPORT,
    H2D,
    H2H,
    INNER_D2D,
    INTER_D2D,
    INVALID_MEMORY_TYPE,
    INVALID_PARAM,
    PAGE,
    PARAM_INVALID,
    POISON,
    STREAM_CONTEXT,
    MiB,
    Pages,
    Runtime,
    put,
)

KINDS = [H2H, H2D, D2H, D2D]


def places(runtime: Runtime) -> dict[str, int]:
    return {"H": runtime.malloc_host(4096), "D": runtime.malloc(4096)}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("ways", ["HH", "HD", "DH", "DD"])
def test_the_kind_has_to_be_true(simulate: Simulate, ways: str, is_async: bool) -> None:
    runtime = simulate()
    src, dst = places(runtime)[ways[0]], places(runtime)[ways[1]]
    stream = runtime.stream()
    for number, kind in enumerate(["HH", "HD", "DH", "DD"]):
        code = (
            runtime.copy_async(dst, src, 4096, number, stream)
            if is_async
            else runtime.copy(dst, src, 4096, number)
        )
        right = FEATURE_NOT_SUPPORT if is_async and kind == "HH" else 0
        assert code == (right if kind == ways else INVALID_MEMORY_TYPE), kind
    runtime.ok("aclrtSynchronizeStream", stream)


def test_newer_kinds(simulate: Simulate) -> None:
    old, new = simulate("8.0.0"), simulate("8.1.RC1")
    for runtime in (old, new):
        host, device = places(runtime)["H"], places(runtime)["D"]
        for kind, dst, src in [
            (DEFAULT, device, host), (DEFAULT, host, device), (BUFFERED, device, host),
            (INNER_D2D, device, device),
        ]:  # fmt: skip
            expected = PARAM_INVALID if runtime is old else 0
            assert runtime.copy(dst, src, 4096, kind) == expected
    assert new.copy(device, device, 4096, INTER_D2D) == INVALID_MEMORY_TYPE


@pytest.mark.parametrize("is_async", [False, True])
def test_more_than_fits_is_refused(simulate: Simulate, is_async: bool) -> None:
    runtime = simulate()
    host, device = places(runtime)["H"], places(runtime)["D"]
    tail = (runtime.stream(),) if is_async else ()
    name = "aclrtMemcpyAsync" if is_async else "aclrtMemcpy"
    function = getattr(runtime, name)
    assert function(device, 4095, host, 4096, H2D, *tail) == PARAM_INVALID
    assert function(device, 0, host, 1, H2D, *tail) == PARAM_INVALID
    assert function(None, 4096, host, 4096, H2D, *tail) == INVALID_PARAM
    assert function(None, 0, None, 0, H2D, *tail) == 0, "no bytes are no error"
    assert runtime.account()["refused"] == {name: 3}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("at", "nbytes"), [(0, 4097), (64, 4033), (-64, 64), (4096, 1)])
def test_no_copy_leaves_its_allocation(
    simulate: Simulate, at: int, nbytes: int, is_async: bool
) -> None:
    runtime = simulate()
    host, device, stream = runtime.malloc_host(8192), runtime.malloc(4096), runtime.stream()
    for dst, src, kind in [(device + at, host, H2D), (host, device + at, D2H)]:
        code = (
            runtime.copy_async(dst, src, nbytes, kind, stream)
            if is_async
            else runtime.copy(dst, src, nbytes, kind)
        )
        assert code == PARAM_INVALID
    assert runtime.account()["async_copies"] == runtime.account()["sync_copies"] == 0


def test_no_copy_leaves_pinned_memory(simulate: Simulate) -> None:
    runtime = simulate()
    host, device = runtime.malloc_host(4096), runtime.malloc(8192)
    assert runtime.copy(device, host + 64, 4096, H2D) == PARAM_INVALID
    assert "leaves its allocation" in runtime.message()


def test_freed_memory_is_not_copied(simulate: Simulate) -> None:
    runtime = simulate()
    host, device, stream = runtime.malloc_host(4096), runtime.malloc(4096), runtime.stream()
    runtime.ok("aclrtFree", device)
    assert runtime.copy(device, host, 4096, H2D) == PARAM_INVALID
    assert runtime.copy_async(device, host, 4096, H2D, stream) == PARAM_INVALID
    assert "was freed" in runtime.message()


@pytest.mark.parametrize(
    ("version", "settings", "code"),
    [
        ("7.0.0", {}, ADDR_UNALIGNED), ("8.3.RC1", {}, ADDR_UNALIGNED), ("8.5.0", {}, 0),
        ("8.3.RC1", {"alignment": 0}, 0), ("9.1.0", {"alignment": 64}, ADDR_UNALIGNED),
    ],
)  # fmt: skip
def test_asynchronous_copies_are_aligned(
    simulate: Simulate, version: str, settings: dict[str, Any], code: int
) -> None:
    runtime = simulate(version, **settings)
    host, device, stream = runtime.malloc_host(4096), runtime.malloc(4096), runtime.stream()
    assert runtime.copy_async(device, host + 32, 64, H2D, stream) == code
    assert runtime.copy_async(device + 32, host, 64, H2D, stream) == code
    assert runtime.copy_async(device + 64, host + 64, 64, H2D, stream) == 0
    assert runtime.copy(device + 32, host + 1, 64, H2D) == 0, "synchronous ones may be anywhere"
    runtime.ok("aclrtSynchronizeStream", stream)


@pytest.mark.parametrize(
    ("version", "settings"),
    [("8.3.RC1", {}), ("8.5.0", {}), ("8.0.0", {"unpinned": "sync"})],
)
def test_a_copy_from_unpinned_memory_waits(
    simulate: Simulate, version: str, settings: dict[str, Any]
) -> None:
    runtime = simulate(version, delay_us=50_000, **settings)
    device, stream, pages = runtime.malloc(8192), runtime.stream(), Pages(4096)
    pinned = runtime.malloc_host(4096)
    put(pinned, b"p" * 4096)
    pages.mapping[:] = b"q" * 4096
    assert runtime.copy_async(device, pinned, 4096, H2D, stream) == 0
    assert runtime.copy_async(device + 4096, pages.address, 4096, H2D, stream) == 0
    # Both have landed: the stream was drained first.
    assert runtime.read(device, 8192) == b"p" * 4096 + b"q" * 4096
    found = runtime.account()
    assert (found["async_copies"], found["pageable_copies"], found["corrupted_copies"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("version", "settings"), [("8.5.0", {"unpinned": "corrupt"}), ("8.0.0", {})]
)
def test_or_brings_garbage(simulate: Simulate, version: str, settings: dict[str, Any]) -> None:
    runtime = simulate(version, **settings)
    device, stream, pages = runtime.malloc(8192), runtime.stream(), Pages(8192)
    assert runtime.copy_async(device, pages.address, 8192, H2D, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 8192) == bytes([POISON]) * 8192
    runtime.write(device, b"d" * 8192)
    assert runtime.copy_async(pages.address, device, 8192, D2H, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert pages.mapping[:] == bytes([POISON]) * 8192
    assert runtime.account()["corrupted_copies"] == 2


def test_unpinned_may_be_set_while_running(simulate: Simulate) -> None:
    runtime = simulate()
    device, stream, pages = runtime.malloc(4096), runtime.stream(), Pages(4096)
    runtime.set("unpinned", "corrupt")
    assert runtime.copy_async(device, pages.address, 4096, H2D, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 4096) == bytes([POISON]) * 4096


def test_with_condition_unpinned_memory_is_never_corrupt(simulate: Simulate) -> None:
    runtime = simulate("8.1.RC1", unpinned="corrupt")
    device, stream, pages = runtime.malloc(4096), runtime.stream(), Pages(4096)
    pages.mapping[:] = b"c" * 4096
    runtime.ok("aclrtMemcpyAsyncWithCondition", device, 4096, pages.address, 4096, H2D, stream)
    assert runtime.read(device, 4096) == b"c" * 4096


def test_memory_that_is_registered_only_in_part_is_unpinned(simulate: Simulate) -> None:
    runtime = simulate()
    device, stream, pages = runtime.malloc(2 * PAGE), runtime.stream(), Pages(2 * PAGE)
    runtime.ok("aclrtHostRegisterV2", pages.address, PAGE, 2)
    assert runtime.copy_async(device, pages.address, 2 * PAGE, H2D, stream) == 0
    assert runtime.account()["pageable_copies"] == 1
    assert runtime.copy_async(device, pages.address, PAGE, H2D, stream) == 0
    assert runtime.account()["pageable_copies"] == 1
    runtime.ok("aclrtSynchronizeStream", stream)
    runtime.ok("aclrtHostUnregister", pages.address)


def test_a_stream_copies_for_its_own_device(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    host, device, stream = runtime.malloc_host(4096), runtime.malloc(4096), runtime.stream()
    runtime.ok("aclrtSetDevice", 1)
    other, other_stream = runtime.malloc(4096), runtime.stream()
    assert runtime.copy_async(device, host, 4096, H2D, other_stream) == STREAM_CONTEXT
    assert runtime.copy_async(other, host, 4096, H2D, stream) == STREAM_CONTEXT
    assert runtime.copy_async(other, host, 4096, H2D, other_stream) == 0
    runtime.ok("aclrtSynchronizeStream", other_stream)
    # Synchronous ones go by address.
    assert runtime.copy(device, host, 4096, H2D) == 0


def test_from_device_to_device(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    data = os.urandom(MiB)
    mine = runtime.malloc(MiB)
    runtime.write(mine, data)
    runtime.ok("aclrtSetDevice", 1)
    other = runtime.malloc(MiB)
    runtime.ok("aclrtSetDevice", 0)
    stream = runtime.stream()
    assert runtime.copy_async(other, mine, MiB, D2D, stream) == PARAM_INVALID
    runtime.ok("aclrtDeviceEnablePeerAccess", 1, 0)
    assert runtime.copy_async(other, mine, MiB, D2D, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(other, MiB) == data
    assert runtime.account()["d2d_nbytes"] == MiB


def test_memset(simulate: Simulate) -> None:
    runtime = simulate()
    device, stream = runtime.malloc(4096), runtime.stream()
    runtime.ok("aclrtMemset", device, 4096, 7, 4096)
    assert runtime.read(device, 4096) == b"\7" * 4096
    with runtime.held(stream):
        runtime.ok("aclrtMemsetAsync", device, 4096, 9, 100, stream)
        assert runtime.read(device, 4096) == b"\7" * 4096, "not yet"
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 4096) == b"\t" * 100 + b"\7" * 3996
    assert runtime.aclrtMemset(device, 10, 0, 11) == PARAM_INVALID
    assert runtime.aclrtMemset(device + 64, 4096, 0, 4096) == PARAM_INVALID


class Location(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("type", ctypes.c_int)]


class BatchAttributes(ctypes.Structure):
    _fields_ = [("dst", Location), ("src", Location), ("reserved", ctypes.c_uint8 * 16)]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("suffix", ["", "V2"])
def test_batches(simulate: Simulate, suffix: str, is_async: bool) -> None:
    runtime = simulate("9.1.0")
    stream, n = runtime.stream(), 20
    sizes = [64 * (i + 1) for i in range(n)]
    data = [os.urandom(size) for size in sizes]
    hosts = [runtime.malloc_host(size) for size in sizes]
    devices = [runtime.malloc(size) for size in sizes]
    for host, text in zip(hosts, data, strict=True):
        put(host, text)
    counts = (ctypes.c_size_t * n)(*sizes)
    attributes = BatchAttributes(Location(0, 1), Location(0, 0))
    failed, zero = ctypes.c_size_t(), ctypes.c_size_t()

    def copy(targets: list[int]) -> int:
        tail = [] if suffix else [ctypes.byref(failed)]
        return int(
            getattr(runtime, "aclrtMemcpyBatch" + "Async" * is_async + suffix)(
                (ctypes.c_void_p * n)(*targets), counts, (ctypes.c_void_p * n)(*hosts), counts, n,
                ctypes.byref(attributes), ctypes.byref(zero), 1, *tail, *([stream] * is_async),
            )
        )  # fmt: skip

    assert copy(devices) == 0, runtime.message()
    runtime.ok("aclrtSynchronizeStream", stream)
    assert [runtime.read(d, s) for d, s in zip(devices, sizes, strict=True)] == data
    assert copy([*devices[:5], devices[5] + 64, *devices[6:]]) == PARAM_INVALID
    if not suffix:
        assert failed.value == 5
    runtime.ok("aclrtSynchronizeStream", stream)
    attributes.src.type = 1
    assert copy(devices) == PARAM_INVALID, "not from a device to a device"


def test_no_batches_on_a_310b(simulate: Simulate) -> None:
    runtime = simulate("9.1.0", soc="Ascend310B4")
    device = runtime.malloc(64)
    one = (ctypes.c_size_t * 1)(64)
    at = (ctypes.c_void_p * 1)(device)
    attributes = BatchAttributes(Location(0, 1), Location(0, 0))
    zero = ctypes.c_size_t()
    code = runtime.aclrtMemcpyBatchV2(
        at, one, at, one, 1, ctypes.byref(attributes), ctypes.byref(zero), 1
    )
    assert code == FEATURE_NOT_SUPPORT
