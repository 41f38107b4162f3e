"""System calls on files: what they do, and the errno they fail with."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfmt import _core
from tests.helpers.indexes import MIB
from tests.helpers.process import descriptor_count, mapping_count

PAGE = mmap.PAGESIZE
NBYTES = 64 * PAGE + 100


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file of some pages, on disk, open for reading."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(NBYTES))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    yield fd
    os.close(fd)


# ---- fallocate ----


def test_space_is_reserved_and_the_file_grows(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "new", os.O_RDWR | os.O_CREAT)
    try:
        try:
            _core.fallocate(fd, MIB)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                pytest.skip("set-up: no fallocate on the file system of the temporary folder")
            raise
        status = os.fstat(fd)
        assert status.st_size == MIB
        assert status.st_blocks * 512 >= MIB
        _core.fallocate(fd, 10)  # never shorter
        assert os.fstat(fd).st_size == MIB
    finally:
        os.close(fd)


@pytest.mark.parametrize(("nbytes", "code"), [(0, errno.EINVAL), (-1, errno.EINVAL)])
def test_no_space_cannot_be_reserved(file: int, nbytes: int, code: int) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        _core.fallocate(file, nbytes)
    assert caught.value.errno == code


def test_more_than_any_disk_has_is_refused(file: int) -> None:
    with pytest.raises(OSError, match=r"File too large|No space left|not supported") as caught:
        _core.fallocate(file, (1 << 63) - 1)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC, errno.EOPNOTSUPP)
    with pytest.raises(OverflowError):
        _core.fallocate(file, 1 << 63)


CALLS: dict[str, Callable[[int], object]] = {
    "fallocate": lambda fd: _core.fallocate(fd, 1),
    "pread_into": lambda fd: _core.pread_into(fd, bytearray(1), 0),
    "dio_alignment": _core.dio_alignment,
    "cached_nbytes": lambda fd: _core.cached_nbytes(fd, 0, 1),
    "resident_nbytes": lambda fd: _core.resident_nbytes(fd, 0, 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_descriptor_is_named_by_its_errno(name: str) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match=r"Bad file descriptor|not implemented") as caught:
        CALLS[name](fd)
    # cachestat is refused as a whole on kernels before 6.5, and where a container forbids it.
    later = (errno.ENOSYS, errno.EPERM) if name == "cached_nbytes" else ()
    assert caught.value.errno in (errno.EBADF, *later)


# ---- pread ----


def test_bytes_are_read_into_a_buffer(file: int) -> None:
    whole = os.pread(file, NBYTES, 0)
    buffer = bytearray(100)
    assert _core.pread_into(file, buffer, 50) == 100
    assert bytes(buffer) == whole[50:150]
    view = memoryview(bytearray(PAGE))
    assert _core.pread_into(file, view[10:20], PAGE) == 10
    assert bytes(view[10:20]) == whole[PAGE : PAGE + 10]
    assert not any(view[20:])


def test_the_end_of_a_file_is_a_short_read(file: int) -> None:
    assert _core.pread_into(file, bytearray(PAGE), NBYTES - 7) == 7
    assert _core.pread_into(file, bytearray(PAGE), NBYTES) == 0
    assert _core.pread_into(file, bytearray(PAGE), NBYTES + 10 * PAGE) == 0
    assert _core.pread_into(file, bytearray(0), 0) == 0


def test_what_cannot_be_read_into_is_refused(file: int) -> None:
    with pytest.raises(BufferError, match="not writable"):
        _core.pread_into(file, b"read only", 0)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        _core.pread_into(file, bytearray(1), -1)
    assert caught.value.errno == errno.EINVAL


# ---- renaming ----


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    return a, b


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
def test_two_folders_change_places(tmp_path: Path, kind: Callable[[Path], str]) -> None:
    a, b = two_folders(tmp_path)
    try:
        _core.rename_exchange(kind(a), kind(b))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            pytest.skip("set-up: the file system of the temporary folder knows no exchange")
        raise
    assert (a / "name").read_text() == "b"
    assert (b / "name").read_text() == "a"


def test_an_exchange_needs_both(tmp_path: Path) -> None:
    a, _ = two_folders(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        _core.rename_exchange(a, tmp_path / "c")
    assert caught.value.errno == errno.ENOENT
    assert (a / "name").read_text() == "a"


def test_odd_names_are_exchanged_as_they_are(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    old, new = os.path.join(folder, b"\xff \n"), os.path.join(folder, b"\xfe")
    for path in (old, new):
        with open(path, "wb") as stream:
            stream.write(path)
    _core.rename_exchange(old, new)
    with open(old, "rb") as stream:
        assert stream.read() == new


# ---- direct reads ----


def test_the_alignment_of_direct_reads_is_true(tmp_path: Path, file: int) -> None:
    alignment = _core.dio_alignment(file)
    if alignment is None:
        pytest.skip("set-up: the kernel or the file system does not tell")
    memory, offset = alignment
    assert (memory == 0) == (offset == 0)
    if offset == 0:
        with pytest.raises(OSError, match="Invalid argument"):
            os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
        return
    assert memory & (memory - 1) == 0
    assert offset & (offset - 1) == 0
    fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
    try:
        step = max(memory, offset)
        buffer = mmap.mmap(-1, 4 * PAGE)
        view = memoryview(buffer)[step : 2 * step]
        assert _core.pread_into(fd, view, offset) == step
        assert bytes(view) == os.pread(file, step, offset)
    finally:
        os.close(fd)


def test_what_is_no_file_on_a_disk_has_no_direct_reads() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert _core.dio_alignment(fd) in (None, (0, 0))
    finally:
        os.close(fd)


# ---- the page cache ----


def drop(fd: int) -> None:
    """Empty a file's page cache, or skip where that cannot be."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if _core.resident_nbytes(fd, 0, NBYTES):
        pytest.skip("set-up: pages of the temporary folder's file system cannot be dropped")
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead


def ways(fd: int) -> list[Callable[[int, int, int], int]]:
    """The two calls that tell, or the one that this kernel has."""
    found: list[Callable[[int, int, int], int]] = [_core.resident_nbytes]
    try:
        _core.cached_nbytes(fd, 0, 1)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise
    else:
        found.append(_core.cached_nbytes)
    return found


def test_a_file_just_written_is_cached(file: int) -> None:
    for query in ways(file):
        assert query(file, 0, NBYTES) == NBYTES
        assert query(file, PAGE, PAGE) == PAGE
        assert query(file, 10, 5) == 5
        assert query(file, NBYTES - 1, 1) == 1


def test_both_ways_agree_page_by_page(file: int) -> None:
    drop(file)
    touched = [3, 4, 17, 63, 64]
    for page in touched:
        os.pread(file, 1, page * PAGE)
    answers = [[q(file, page * PAGE, PAGE) for page in range(65)] for q in ways(file)]
    assert all(answer == answers[0] for answer in answers)
    assert all(answers[0][page] == PAGE for page in touched)
    assert answers[0].count(0) >= 50
    for query in ways(file):
        assert query(file, 3 * PAGE, 2 * PAGE) == 2 * PAGE
        assert query(file, 2 * PAGE, 4 * PAGE) == 2 * PAGE
        assert query(file, 30 * PAGE, 4 * PAGE) == 0


def test_more_than_the_file_is_never_cached_whole(file: int) -> None:
    for query in ways(file):
        assert query(file, 0, 100 * PAGE) == 65 * PAGE
        assert query(file, 200 * PAGE, PAGE) == 0


def test_a_range_of_nothing_has_no_pages(file: int) -> None:
    if _core.cached_nbytes in ways(file):
        assert _core.cached_nbytes(file, 0, 0) == 0
    with pytest.raises(OSError, match="Invalid argument"):
        _core.resident_nbytes(file, 0, 0)


def test_asking_leaves_no_mapping_behind(file: int) -> None:
    before = mapping_count(), descriptor_count()
    for _ in range(200):
        _core.resident_nbytes(file, PAGE + 5, 10 * PAGE)
    after = mapping_count(), descriptor_count()
    assert after[0] - before[0] < 5
    assert after[1] == before[1]
