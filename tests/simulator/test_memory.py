"""Device memory: limits, what is refused, what the host may not touch."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import (
    CONTEXT_NULL,
    D2H,
    H2D,
    INVALID_PARAM,
    MEMORY_ALLOCATION,
    PARAM_INVALID,
    MiB,
    Runtime,
    put,
)

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
LIBC.pread.restype = ctypes.c_ssize_t


def pread(path: Path, address: int, nbytes: int, flags: int = 0) -> int:
    """Bytes read into any address, or a negative errno."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        got = int(LIBC.pread(fd, address, nbytes, 0))
        return got if got >= 0 else -ctypes.get_errno()
    finally:
        os.close(fd)


def system_has_secret_memory(nbytes: int = MiB) -> bool:
    """Is there memory that no one can take hold of, and so much of it for us?"""
    fd = LIBC.syscall(447, 0)  # memfd_secret
    if fd < 0:
        return False
    try:
        os.ftruncate(fd, nbytes)
        mmap.mmap(fd, nbytes).close()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def memory_info(runtime: Runtime) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    runtime.ok("aclrtGetMemInfo", 1, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def test_bytes_come_back_and_memory_is_given_back(simulate: Simulate) -> None:
    runtime = simulate()
    data = os.urandom(3 * MiB + 17)
    address = runtime.malloc(len(data))
    runtime.write(address, data)
    assert runtime.read(address, len(data)) == data
    assert runtime.live()["device"] == 1
    runtime.ok("aclrtFree", address)
    assert runtime.live()["device"] == 0
    assert memory_info(runtime) == (256 * MiB, 256 * MiB)


def test_the_memory_of_a_device_is_limited(simulate: Simulate) -> None:
    runtime = simulate(memory="64M")
    found = ctypes.c_void_p()
    assert runtime.aclrtMalloc(ctypes.byref(found), 65 * MiB, 0) == MEMORY_ALLOCATION
    first = runtime.malloc(40 * MiB)
    assert memory_info(runtime) == (64 * MiB - 40 * MiB - 32, 64 * MiB)
    assert runtime.aclrtMalloc(ctypes.byref(found), 24 * MiB, 0) == MEMORY_ALLOCATION
    assert "25165792 of 67108864 free" in runtime.message()
    runtime.ok("aclrtFree", first)
    runtime.ok("aclrtFree", runtime.malloc(60 * MiB))


def test_align32_takes_no_extra_bytes(simulate: Simulate) -> None:
    runtime = simulate()
    runtime.made("aclrtMallocAlign32", 33, 0)
    assert memory_info(runtime)[0] == 256 * MiB - 64


def test_nothing_cannot_be_allocated(simulate: Simulate) -> None:
    found = ctypes.c_void_p()
    assert simulate().aclrtMalloc(ctypes.byref(found), 0, 0) == INVALID_PARAM


def test_addresses_are_not_used_again_at_once(simulate: Simulate) -> None:
    runtime = simulate()
    seen = set()
    for _ in range(100):
        address = runtime.malloc(MiB)
        runtime.ok("aclrtFree", address)
        assert address % 512 == 0
        seen.add(address)
    assert len(seen) == 100


def test_addresses_do_not_run_out(simulate: Simulate) -> None:
    runtime = simulate(memory="64M")
    kept = runtime.malloc(MiB)
    for _ in range(1000):
        runtime.ok("aclrtFree", runtime.malloc(32 * MiB))
    runtime.write(kept, b"x" * MiB)
    assert runtime.read(kept, MiB) == b"x" * MiB


@pytest.mark.parametrize("shift", [0, 512, -4096])
def test_only_the_start_of_live_memory_can_be_freed(simulate: Simulate, shift: int) -> None:
    runtime = simulate()
    address = runtime.malloc(4096)
    if shift == 0:
        runtime.ok("aclrtFree", address)
    assert runtime.aclrtFree(address + shift) == PARAM_INVALID
    assert runtime.aclrtFree(ctypes.addressof(ctypes.c_int())) == PARAM_INVALID


def test_the_host_cannot_read_device_memory(simulate: Simulate, tmp_path: Path) -> None:
    """By a system call, which fails where a load or a store would end the process."""
    runtime = simulate()
    (tmp_path / "file").write_bytes(b"x" * 4096)
    assert pread(tmp_path / "file", runtime.malloc(4096), 4096) == -errno.EFAULT


def test_in_rc_mode_the_host_reads_into_device_memory(simulate: Simulate, tmp_path: Path) -> None:
    runtime = simulate(soc="Ascend310B4")
    (tmp_path / "file").write_bytes(b"x" * 4096)
    address = runtime.malloc(4096)
    assert pread(tmp_path / "file", address, 4096) == 4096
    assert runtime.read(address, 4096) == b"x" * 4096
    assert ctypes.string_at(address, 4096) == b"x" * 4096


def test_in_rc_mode_pinned_memory_is_device_memory(simulate: Simulate) -> None:
    runtime = simulate(run_mode="rc")
    address = runtime.malloc_host(MiB)
    assert memory_info(runtime)[0] == 255 * MiB
    put(address, b"y" * 64)
    device = runtime.malloc(64)
    assert runtime.copy(device, address, 64, D2H) == 0, "in RC mode the kind does not matter"
    assert runtime.read(device, 64) == b"y" * 64
    runtime.ok("aclrtFreeHost", address)
    runtime.ok("aclrtFree", device)
    assert memory_info(runtime)[0] == 256 * MiB


@pytest.mark.parametrize("backing", ["anonymous", "memfd", "secret"])
@pytest.mark.parametrize("mode", ["ep", "rc"])
def test_what_device_memory_is_made_of(
    simulate: Simulate, tmp_path: Path, backing: str, mode: str
) -> None:
    runtime = simulate(backing=backing, run_mode=mode, memory="16M", started=False)
    runtime.ok("aclInit", None)
    # Locked are all addresses of a device, several times its memory.
    if backing == "secret" and not system_has_secret_memory(128 * MiB):
        pytest.skip("this system has no secret memory for us")
    runtime.ok("aclrtSetDevice", 0)
    data = os.urandom(5 * MiB)
    address = runtime.malloc(len(data))
    runtime.write(address, data)
    assert runtime.read(address, len(data)) == data
    maps = Path("/proc/self/maps").read_text()
    assert ("/memfd:aclsim-device0" in maps) >= (backing == "memfd")
    if backing == "secret" and mode == "rc":
        (tmp_path / "file").write_bytes(b"x" * 4096)
        got = pread(tmp_path / "file", address, 4096, os.O_DIRECT)
        assert got in (-errno.EFAULT, -errno.EINVAL)
    runtime.ok("aclrtFree", address)


def resident() -> int:
    """Bytes of device 0 that are there, where its memory is a memfd."""
    rss, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = "/memfd:aclsim-device0" in line
        elif inside and line.startswith("Rss:"):
            rss += int(line.split()[1]) << 10
    return rss


def test_freed_memory_goes_back_to_the_system(simulate: Simulate) -> None:
    runtime, before = simulate(backing="memfd"), resident()
    address = runtime.malloc(32 * MiB)
    assert resident() == before, "memory is taken when it is written"
    runtime.write(address, b"z" * (32 * MiB))
    assert resident() >= before + 32 * MiB
    runtime.ok("aclrtFree", address)
    assert resident() == before


def test_memory_can_be_there_from_the_start(simulate: Simulate) -> None:
    before = resident()
    runtime = simulate(backing="memfd", populate="32M")
    there = resident()
    assert there >= before + 32 * MiB
    runtime.write(runtime.malloc(32 * MiB), b"z" * (32 * MiB))
    assert resident() == there


def test_reserved_addresses_have_memory_once_it_is_mapped(simulate: Simulate) -> None:
    runtime = simulate()
    address = runtime.made("aclrtReserveMemAddress", 8 * MiB, 0, None, 0)
    data = os.urandom(4 * MiB)
    buffer = ctypes.create_string_buffer(data, len(data))
    source = ctypes.addressof(buffer)
    assert runtime.copy(address, source, len(data), H2D) == PARAM_INVALID
    pieces = [runtime.made("aclrtMallocPhysical", 2 * MiB, None, 0) for _ in range(2)]
    runtime.ok("aclrtMapMem", address, 2 * MiB, 0, pieces[0], 0)
    assert runtime.copy(address, source, len(data), H2D) == PARAM_INVALID, "half of it has none"
    runtime.ok("aclrtMapMem", address + 2 * MiB, 2 * MiB, 0, pieces[1], 0)
    assert runtime.copy(address, source, len(data), H2D) == 0
    assert runtime.read(address, len(data)) == data
    assert memory_info(runtime)[0] == 252 * MiB
    assert runtime.aclrtReleaseMemAddress(address) == PARAM_INVALID, "memory is mapped there"
    for i, piece in enumerate(pieces):
        runtime.ok("aclrtUnmapMem", address + i * 2 * MiB)
        runtime.ok("aclrtFreePhysical", piece)
    runtime.ok("aclrtReleaseMemAddress", address)
    assert set(runtime.live().values()) == {0}
    assert memory_info(runtime)[0] == 256 * MiB


def test_memory_needs_a_context(simulate: Simulate) -> None:
    runtime = simulate(started=False)
    runtime.ok("aclInit", None)
    found = ctypes.c_void_p()
    assert runtime.aclrtMalloc(ctypes.byref(found), 4096, 0) == CONTEXT_NULL
    assert runtime.aclrtMallocHost(ctypes.byref(found), 4096) == CONTEXT_NULL
    assert runtime.account()["wrong_thread_calls"] == 2
