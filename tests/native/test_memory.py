"""Memory and its regions: who owns which page, and when the system gets it back."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import random
from pathlib import Path

import numpy as np
import pytest

from ckptfmt._core import Memory, Region, advise_huge_pages
from tests.helpers.indexes import MIB
from tests.helpers.process import anonymous_nbytes, descriptor_count, mapping_count

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize("nbytes", [1, 100, PAGE, PAGE + 1, MIB, 2 * MIB - 1, 2 * MIB, 5 * MIB + 3])
def test_new_memory_is_zero_and_aligned(nbytes: int) -> None:
    memory = Memory(nbytes)
    assert memory.nbytes == nbytes
    # Huge pages only cover whole, aligned 2 MiB.
    assert memory.address % (2 * MIB if nbytes >= 2 * MIB else PAGE) == 0
    view = memoryview(memory.region(0, nbytes, nbytes))
    assert len(view) == nbytes
    assert not any(view)


def test_memory_that_nobody_touches_costs_nothing() -> None:
    before = anonymous_nbytes()
    memory = Memory(1 << 36)
    view = memoryview(memory.region(0, 1 << 36, 1 << 36))
    view[1 << 35] = 7
    assert view[1 << 35] == 7
    assert anonymous_nbytes() - before < 16 * MIB


@pytest.mark.parametrize("nbytes", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_what_the_system_cannot_give_is_a_memory_error(nbytes: int) -> None:
    with pytest.raises(MemoryError, match=f"cannot map {nbytes} bytes: Cannot allocate memory"):
        Memory(nbytes)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        Memory(0)
    for nbytes in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            Memory(nbytes)
    with pytest.raises(TypeError):
        Memory("4096")  # type: ignore[arg-type]


def test_memory_is_mapped_once() -> None:
    memory = Memory(PAGE)
    address = memory.address
    with pytest.raises(RuntimeError, match="mapped once"):
        memory.__init__(PAGE)  # type: ignore[misc]
    assert memory.address == address


def test_memory_that_was_never_mapped_is_empty() -> None:
    memory = Memory.__new__(Memory)
    assert memory.nbytes == memory.address == 0
    with pytest.raises(ValueError, match="leaves the 0 bytes"):
        memory.region(0, 1, 1)
    del memory


# ---- regions ----


def test_a_region_is_a_writable_buffer_over_its_bytes() -> None:
    memory = Memory(3 * PAGE)
    region = memory.region(PAGE, 10, PAGE)
    assert region.nbytes == 10
    assert region.address == memory.address + PAGE
    view = memoryview(region)
    assert (view.nbytes, view.readonly, view.contiguous, view.format) == (10, False, True, "B")
    view[:] = b"0123456789"
    whole = memoryview(memory.region(0, 3 * PAGE, 3 * PAGE))
    assert bytes(whole[PAGE : PAGE + 10]) == b"0123456789"
    assert not any(whole[:PAGE])
    assert np.frombuffer(region, np.uint8).flags.writeable


@pytest.mark.parametrize(
    ("offset", "nbytes", "span"),
    [
        (0, 2, 1), (0, PAGE + 1, PAGE + 1), (1, PAGE, PAGE), (PAGE, 1, 1), (PAGE + 1, 0, 0),
        ((1 << 64) - 1, 1, 2), (1, (1 << 64) - 1, (1 << 64) - 1), (0, 0, PAGE + 1),
    ],
)  # fmt: skip
def test_a_region_never_leaves_its_memory(offset: int, nbytes: int, span: int) -> None:
    memory = Memory(PAGE)
    with pytest.raises(ValueError, match=f"leaves the {PAGE} bytes"):
        memory.region(offset, nbytes, span)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, -1), (1 << 64, 0)])
def test_numbers_that_are_no_sizes_are_refused(offset: int, nbytes: int) -> None:
    with pytest.raises(OverflowError):
        Memory(PAGE).region(offset, nbytes, nbytes)


def test_a_region_at_the_very_end_and_of_nothing() -> None:
    memory = Memory(PAGE + 5)
    assert len(memoryview(memory.region(PAGE, 5, 5))) == 5
    assert len(memoryview(memory.region(PAGE + 5, 0, 0))) == 0


def test_regions_come_from_memory_only() -> None:
    with pytest.raises(TypeError, match=r"from Memory\.region"):
        Region()
    lonely = Region.__new__(Region)
    assert len(memoryview(lonely)) == 0
    del lonely


def test_a_region_outlives_the_name_of_its_memory() -> None:
    memory = Memory(4 * MIB)
    region = memory.region(MIB, MIB, MIB)
    view = memoryview(region)
    view[:] = b"\x07" * MIB
    del memory, region
    gc.collect()
    assert view[0] == view[MIB - 1] == 7
    view[5] = 9
    array = np.frombuffer(view, np.uint8)
    del view
    gc.collect()
    assert array[5] == 9


def test_memory_is_unmapped_with_its_last_region() -> None:
    before = anonymous_nbytes()
    memory = Memory(64 * MIB)
    first, last = memory.region(0, MIB, MIB), memory.region(MIB, MIB, 63 * MIB)
    np.frombuffer(last, np.uint8)[:] = 1
    np.frombuffer(first, np.uint8)[:] = 1
    del memory, first
    gc.collect()
    assert np.frombuffer(last, np.uint8).all()
    del last
    assert anonymous_nbytes() - before < 2 * MIB


def test_a_region_that_dies_gives_its_pages_back_at_once() -> None:
    before = anonymous_nbytes()
    memory = Memory(64 * MIB)
    regions = [memory.region(i * 8 * MIB, 8 * MIB, 8 * MIB) for i in range(8)]
    for i in range(8):
        np.frombuffer(regions[i], np.uint8)[:] = i + 1
    assert anonymous_nbytes() - before > 63 * MIB
    for left in range(7, -1, -1):
        regions.pop(0)
        assert abs(anonymous_nbytes() - before - left * 8 * MIB) < MIB
        for i in range(left):
            # The neighbours keep theirs.
            assert np.frombuffer(regions[i], np.uint8)[[0, -1]].tolist() == [9 - left + i] * 2
    assert memory.nbytes == 64 * MIB


def test_neighbours_of_a_region_that_dies_keep_every_byte() -> None:
    rng = random.Random(7)
    memory = Memory(MIB)
    cuts = sorted(rng.sample(range(1, MIB), 60))
    regions = {}
    for start, stop in zip([0, *cuts], [*cuts, MIB], strict=True):
        regions[start] = memory.region(start, stop - start, stop - start)
        np.frombuffer(regions[start], np.uint8)[:] = start % 251 + 1
    for start in rng.sample(list(regions), 40):
        del regions[start]
        for other, region in regions.items():
            assert (np.frombuffer(region, np.uint8) == other % 251 + 1).all()


def test_a_part_of_a_page_is_kept_until_the_memory_goes() -> None:
    memory = Memory(4 * PAGE)
    whole = np.frombuffer(memory.region(0, 4 * PAGE, 4 * PAGE), np.uint8)
    whole[:] = 3
    region = memory.region(100, 3 * PAGE - 100, 3 * PAGE - 100)
    del region
    # Only the whole pages inside were given back; what is read there now is zero.
    assert (whole[:PAGE] == 3).all()
    assert not whole[PAGE : 3 * PAGE].any()
    assert (whole[3 * PAGE :] == 3).all()


def test_a_view_keeps_its_region_alive() -> None:
    memory = Memory(PAGE)
    view = memoryview(memory.region(0, PAGE, PAGE))
    view[:] = b"\x05" * PAGE
    gc.collect()
    assert bytes(view) == b"\x05" * PAGE
    view.release()
    assert not any(memoryview(memory.region(0, PAGE, PAGE)))


def test_freeing_many_regions_does_not_cut_the_mapping() -> None:
    memory = Memory(4000 * PAGE)
    regions = [memory.region(i * PAGE, PAGE, PAGE) for i in range(4000)]
    for region in regions:
        memoryview(region)[0] = 1
    before = mapping_count()
    del regions[::2], region
    assert mapping_count() - before < 10


def test_a_thousand_allocations_leak_nothing() -> None:
    def once(i: int) -> None:
        memory = Memory(2 * MIB + i * PAGE)
        regions = [memory.region(j * PAGE, 10, PAGE) for j in range(8)]
        for region in regions:
            memoryview(region)[0] = 1
        with pytest.raises(ValueError, match="leaves"):
            memory.region(0, 1 << 30, 1 << 30)

    for i in range(50):
        once(i)
    before = anonymous_nbytes(), mapping_count(), descriptor_count()
    for i in range(1000):
        once(i)
    after = anonymous_nbytes(), mapping_count(), descriptor_count()
    assert after[0] - before[0] < 2 * MIB
    assert after[1] - before[1] < 5
    assert after[2] == before[2]


def test_a_part_that_is_populated_is_there_and_the_rest_is_not() -> None:
    memory = Memory(64 * MIB)
    before = anonymous_nbytes()
    assert memory.populate(16 * MIB, 8 * MIB) in (True, False)  # whether it may be held
    assert 7 * MIB < anonymous_nbytes() - before < 9 * MIB
    assert not any(memoryview(memory.region(16 * MIB, MIB, MIB)))


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 2 * PAGE), (PAGE, PAGE), (1 << 62, 1 << 62)])
def test_no_part_beyond_the_memory_is_populated(offset: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match=f"leaves the {PAGE} bytes"):
        Memory(PAGE).populate(offset, nbytes)


# ---- files ----


def test_a_mapped_file_is_private_and_writable(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * PAGE + b"\x02" * PAGE)
    fd = os.open(path, os.O_RDONLY)
    memory = Memory(2 * PAGE, fd=fd)
    os.close(fd)  # the mapping does not need it
    region = memory.region(PAGE, PAGE, PAGE)
    view = memoryview(region)
    assert bytes(view) == b"\x02" * PAGE
    view[:] = b"\x09" * PAGE
    assert path.read_bytes() == b"\x01" * PAGE + b"\x02" * PAGE
    assert not memory.huge_pages


def test_a_region_of_a_file_that_dies_gives_back_its_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * 16 * MIB)
    with path.open("rb") as stream:
        memory = Memory(16 * MIB, fd=stream.fileno())
    before = anonymous_nbytes()
    region = memory.region(0, 16 * MIB, 16 * MIB)
    np.frombuffer(region, np.uint8)[:] = 2
    assert anonymous_nbytes() - before > 15 * MIB
    del region
    assert anonymous_nbytes() - before < MIB
    assert memoryview(memory.region(0, 1, 1))[0] == 1


def test_a_file_that_cannot_be_mapped_is_a_memory_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(MemoryError, match="Permission denied"):
            Memory(PAGE, fd=fd)
    finally:
        os.close(fd)
    with pytest.raises(MemoryError, match="Bad file descriptor"):
        Memory(PAGE, fd=fd)


def test_what_is_kept_from_children_is_not_theirs() -> None:
    """A child of fork has none of it, and unmaps nothing that it has there itself by then."""
    memory = Memory(4 << 20)
    memory.populate(0, 4 << 20)
    memory.keep_from_children()
    address = memory.address
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        fixed = libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(4 << 20), 3, 0x100022, -1,
                          ctypes.c_long(0))  # private, anonymous, MAP_FIXED_NOREPLACE
        del memory
        ctypes.memset(address, 1, 4 << 20)
        os._exit(0 if fixed == address else 1)
    assert os.waitpid(child, 0)[1] == 0
    ctypes.memset(address, 2, 4 << 20)


# ---- memory of others ----


def _advised() -> list[tuple[int, int]]:
    """Where the system was told to use huge pages."""
    found, at = [], (0, 0)
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if "-" in first:
            low, high = first.split("-")
            at = int(low, 16), int(high, 16)
        elif first == "VmFlags:" and " hg " in f"{line} ":
            found.append(at)
    return found


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no transparent huge pages"
)
def test_whole_huge_pages_of_a_range_are_advised_and_keep_what_they_hold() -> None:
    raw = mmap.mmap(-1, 12 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw[:] = bytes([7]) * (12 * MIB)
    base = ctypes.addressof(ctypes.c_char.from_buffer(raw))
    huge = -(-base // (2 * MIB)) * 2 * MIB
    assert not advise_huge_pages(huge + 1, 4 * MIB - 2)  # only one half and the other of two
    assert not advise_huge_pages(huge, 0)
    assert not any(low < huge + 4 * MIB and huge < high for low, high in _advised())
    assert advise_huge_pages(huge + 1, 6 * MIB)
    assert any(low <= huge + 2 * MIB and huge + 6 * MIB <= high for low, high in _advised())
    assert not any(low <= huge < high for low, high in _advised())
    assert raw[:] == bytes([7]) * (12 * MIB)


def test_what_is_no_memory_is_not_advised() -> None:
    assert not advise_huge_pages(1 << 60, 8 * MIB)
