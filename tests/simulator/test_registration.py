"""Host memory: pinned by the runtime, or the caller's own and registered."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    ALREADY_REGISTERED,
    CONTEXT_NULL,
    DRV_INTERNAL_ERROR,
    FEATURE_NOT_SUPPORT,
    H2D,
    INVALID_PARAM,
    NOT_REGISTERED,
    PAGE,
    PARAM_INVALID,
    MiB,
    Pages,
    Runtime,
    put,
)
from tests.simulator.test_memory import pread, system_has_secret_memory

ALIGNED = "a file system that can read directly"


class Attributes(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint32), ("type", ctypes.c_int), ("page_nbytes", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 4),
    ]  # fmt: skip


HOST, DEVICE, UNREGISTERED = 0, 1, 2


def register(runtime: Runtime, address: int, nbytes: int) -> int:
    """By the function that the version has."""
    if runtime.has("aclrtHostRegisterV2"):
        return int(runtime.aclrtHostRegisterV2(address, nbytes, 2))
    return int(runtime.aclrtHostRegister(address, nbytes, 0, ctypes.byref(ctypes.c_void_p())))


@pytest.mark.parametrize("version", ["8.1.RC1", "8.3.RC1", "8.5.0", "9.1.0"])
def test_registered_memory_is_copied_from_asynchronously(simulate: Simulate, version: str) -> None:
    runtime = simulate(version)
    stream, device, pages = runtime.stream(), runtime.malloc(2 * PAGE), Pages(2 * PAGE)
    pages.mapping[:] = b"r" * (2 * PAGE)
    assert register(runtime, pages.address, 2 * PAGE) == 0
    with runtime.held(stream):
        assert runtime.copy_async(device, pages.address, PAGE, H2D, stream) == 0
        assert runtime.copy_async(device + PAGE, pages.address + PAGE, PAGE, H2D, stream) == 0
        assert runtime.read(device, 2 * PAGE) == bytes(2 * PAGE), "not yet"
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.read(device, 2 * PAGE) == b"r" * (2 * PAGE)
    assert runtime.account()["pageable_copies"] == 0
    assert runtime.live()["registered"] == 1
    runtime.ok("aclrtHostUnregister", pages.address)
    assert runtime.live()["registered"] == 0


@pytest.mark.parametrize("soc", ["Ascend310B4", "Ascend310P3", "Ascend910A", "Ascend910B"])
def test_some_chips_cannot(simulate: Simulate, soc: str) -> None:
    runtime = simulate(soc=soc)
    assert register(runtime, Pages(PAGE).address, PAGE) == FEATURE_NOT_SUPPORT


@pytest.mark.parametrize("soc", ["Ascend910B1", "Ascend910B2C", "Ascend910_9392", "Ascend950"])
def test_others_can(simulate: Simulate, soc: str) -> None:
    pages = Pages(PAGE)
    assert register(simulate(soc=soc), pages.address, PAGE) == 0


@pytest.mark.parametrize(
    ("shift", "nbytes"), [(64, PAGE), (0, PAGE + 64), (0, 0), (0, 100), (1, PAGE)]
)
def test_whole_pages_only(simulate: Simulate, shift: int, nbytes: int) -> None:
    pages = Pages(3 * PAGE)
    runtime = simulate()
    assert register(runtime, pages.address + shift, nbytes) == DRV_INTERNAL_ERROR
    assert "multiples of the page" in runtime.message()


@pytest.mark.parametrize("at", [0, 1, -1, 2])
def test_no_page_twice(simulate: Simulate, at: int) -> None:
    pages, runtime = Pages(6 * PAGE), simulate()
    start = pages.address + PAGE
    assert register(runtime, start, 3 * PAGE) == 0
    assert register(runtime, start + at * PAGE, 2 * PAGE) == ALREADY_REGISTERED
    assert register(runtime, start - PAGE, 6 * PAGE) == ALREADY_REGISTERED
    assert register(runtime, start + 3 * PAGE, PAGE) == 0, "beside it is free"


def test_pinned_memory_is_registered_already(simulate: Simulate) -> None:
    runtime = simulate()
    assert register(runtime, runtime.malloc_host(PAGE), PAGE) == ALREADY_REGISTERED


@pytest.mark.parametrize(
    "arguments",
    [
        {"flags": mmap.MAP_SHARED}, {"flags": mmap.MAP_PRIVATE},
        {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE},
    ],
)  # fmt: skip
def test_not_the_pages_of_a_file(
    simulate: Simulate, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    runtime = simulate()
    with (tmp_path / "file").open("r+b") as file, mmap.mmap(file.fileno(), PAGE, **arguments) as m:
        held = ctypes.c_char.from_buffer(m)
        assert register(runtime, ctypes.addressof(held), PAGE) == DRV_INTERNAL_ERROR
        assert "a file's" in runtime.message()
        del held


def test_shared_anonymous_memory_and_memfd_are_no_files(simulate: Simulate) -> None:
    runtime, pages = simulate(), Pages(PAGE, flags=mmap.MAP_SHARED)
    assert register(runtime, pages.address, PAGE) == 0
    fd = os.memfd_create("slots")
    os.ftruncate(fd, PAGE)
    held = mmap.mmap(fd, PAGE)
    assert register(runtime, ctypes.addressof(ctypes.c_char.from_buffer(held)), PAGE) == 0
    os.close(fd)


def test_not_what_cannot_be_written_or_is_not_there(simulate: Simulate) -> None:
    runtime = simulate()
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.mmap(None, ctypes.c_size_t(4 * PAGE), 3, 0x22, -1, ctypes.c_long(0))
    assert libc.munmap(start + PAGE, PAGE) == 0
    assert register(runtime, start, 2 * PAGE) == DRV_INTERNAL_ERROR
    assert "not mapped" in runtime.message()
    assert libc.mprotect(start + 3 * PAGE, PAGE, mmap.PROT_READ) == 0
    assert register(runtime, start + 2 * PAGE, 2 * PAGE) == DRV_INTERNAL_ERROR
    assert "cannot be written" in runtime.message()
    assert register(runtime, start + 2 * PAGE, PAGE) == 0


def test_only_what_was_registered_can_be_unregistered(simulate: Simulate) -> None:
    pages, runtime = Pages(2 * PAGE), simulate()
    assert runtime.aclrtHostUnregister(pages.address) == NOT_REGISTERED
    assert register(runtime, pages.address, 2 * PAGE) == 0
    assert runtime.aclrtHostUnregister(pages.address + PAGE) == NOT_REGISTERED
    runtime.ok("aclrtHostUnregister", pages.address)
    assert runtime.aclrtHostUnregister(pages.address) == NOT_REGISTERED
    assert runtime.aclrtHostUnregister(runtime.malloc_host(64)) == NOT_REGISTERED


def test_types_and_flags(simulate: Simulate) -> None:
    runtime, pages, place = simulate(), Pages(PAGE), ctypes.byref(ctypes.c_void_p())
    for flags in (0, 0x4, 0x8, 0x10000000, 0x2 | 0x4):
        assert runtime.aclrtHostRegisterV2(pages.address, PAGE, flags) == FEATURE_NOT_SUPPORT
    runtime.ok("aclrtHostRegisterV2", pages.address, PAGE, 0x2 | 0x10000000)
    runtime.ok("aclrtHostUnregister", pages.address)
    assert runtime.aclrtHostRegister(pages.address, PAGE, 4, place) == FEATURE_NOT_SUPPORT
    assert runtime.aclrtHostRegister(pages.address, PAGE, 0, None) == INVALID_PARAM


def test_the_device_s_name_of_it_is_no_address_for_copies(simulate: Simulate) -> None:
    runtime, pages, found = simulate(), Pages(PAGE), ctypes.c_void_p()
    runtime.ok("aclrtHostRegister", pages.address, PAGE, 0, ctypes.byref(found))
    assert found.value is not None
    again = ctypes.c_void_p()
    runtime.ok("aclrtHostGetDevicePointer", pages.address, ctypes.byref(again), 0)
    assert again.value == found.value != pages.address
    assert runtime.copy(runtime.malloc(64), found.value, 64, H2D) == PARAM_INVALID
    assert "no copy can use" in runtime.message()


def test_registering_needs_a_context(simulate: Simulate) -> None:
    runtime = simulate(started=False)
    runtime.ok("aclInit", None)
    assert register(runtime, Pages(PAGE).address, PAGE) == CONTEXT_NULL


@pytest.mark.parametrize("version", ["8.1.RC1", "8.5.0"])
def test_what_a_pointer_is(simulate: Simulate, version: str) -> None:
    runtime = simulate(version, devices=2)
    runtime.ok("aclrtSetDevice", 1)
    pages, registered, found = Pages(PAGE), Pages(PAGE), Attributes()
    assert register(runtime, registered.address, PAGE) == 0
    for address, expected in [
        (runtime.malloc(64), (1, DEVICE)), (runtime.malloc_host(64), (1, HOST)),
        (registered.address, (1, HOST)),
    ]:  # fmt: skip
        runtime.ok("aclrtPointerGetAttributes", address, ctypes.byref(found))
        assert (found.id, found.type) == expected
    code = runtime.aclrtPointerGetAttributes(pages.address, ctypes.byref(found))
    if version == "8.5.0":
        assert (code, found.type) == (0, UNREGISTERED)
    else:
        assert code == PARAM_INVALID


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    """A file that can be read directly."""
    path = tmp_path / "aligned"
    path.write_bytes(b"f" * MiB)
    pages = Pages(PAGE)
    try:
        got = pread(path, pages.address, 4096, os.O_DIRECT)
    except OSError:
        got = -errno.EINVAL
    if got != 4096:
        pytest.skip(f"needs {ALIGNED}")
    return path


def test_direct_reads_into_pinned_memory_fail(simulate: Simulate, aligned: Path) -> None:
    runtime = simulate()
    address = runtime.malloc_host(MiB)
    if not system_has_secret_memory():
        assert runtime.account()["pinned_backing"] == "plain"
        pytest.skip("this system has no secret memory for us: pinned memory is plain")
    assert runtime.account()["pinned_backing"] == "secret"
    assert pread(aligned, address, 4096, os.O_DIRECT) == -errno.EFAULT
    assert pread(aligned, address, 4096) == 4096, "buffered ones do not"
    assert ctypes.string_at(address, 4096) == b"f" * 4096


def test_direct_reads_into_registered_memory_do_not(simulate: Simulate, aligned: Path) -> None:
    runtime, pages = simulate(), Pages(PAGE)
    assert register(runtime, pages.address, PAGE) == 0
    assert pread(aligned, pages.address, 4096, os.O_DIRECT) == 4096


def test_pinned_memory_may_be_plain(simulate: Simulate, aligned: Path) -> None:
    runtime = simulate(pinned="plain")
    address = runtime.malloc_host(MiB)
    assert runtime.account()["pinned_backing"] == "plain"
    assert pread(aligned, address, 4096, os.O_DIRECT) == 4096


def test_pinned_memory_is_freed_once(simulate: Simulate) -> None:
    runtime = simulate()
    address, stream = runtime.malloc_host(100), runtime.stream()
    put(address, b"x" * 100)
    assert runtime.aclrtFree(address) == PARAM_INVALID
    assert runtime.aclrtFreeHost(address + 64) == PARAM_INVALID
    runtime.ok("aclrtFreeHost", address)
    assert runtime.aclrtFreeHost(address) == PARAM_INVALID
    runtime.ok("aclrtFreeHost", runtime.made("aclrtMallocHostWithCfg", 4096, None))
    runtime.ok("aclrtDestroyStream", stream)
    assert set(runtime.live().values()) == {0}
