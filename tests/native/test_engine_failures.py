"""The engine when something is wrong: the first failure is told, all reads have ended."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptfmt import _core
from ckptfmt._core import crc32c
from tests.helpers.engines import Bench, need, noise, work
from tests.helpers.indexes import MIB

Make = Callable[[int], Bench]
TABLES = pytest.mark.parametrize("io", ["io_uring", "pread"])
DIRECT = pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
SECTOR = 4096


def filled(bench: Bench, path: Path, n_ops: int, nbytes: int = 4 * SECTOR) -> Bench:
    """A bench with a file of `n_ops` ops of `nbytes`."""
    bench.add_file(path, noise(n_ops * nbytes))
    for i in range(n_ops):
        bench.add_op(i * nbytes, nbytes)
    return bench


# ---- the file ends ----


@TABLES
@DIRECT
@pytest.mark.parametrize("left", [0, 1, SECTOR - 1, SECTOR, 3 * SECTOR + 17])
def test_a_file_cut_short_is_the_end(
    io: str, direct: bool, left: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 10)
    os.truncate(tmp_path / "file", 6 * 4 * SECTOR + left)
    engine = bench.run(io, n_direct=10 if direct else 0)
    assert engine.failure is not None
    kind, op, code, _ = engine.failure
    assert (kind, code) == ("end", errno.ENODATA)
    assert op >= 6
    if not direct:  # one worker goes through them in order
        assert op == 6


@TABLES
@DIRECT
def test_an_op_past_the_end_is_the_end(
    io: str, direct: bool, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(SECTOR))
    bench.contents[0] += bytes(20 * SECTOR)  # what the plan believes
    bench.add_op(10 * SECTOR, SECTOR)
    engine = bench.run(io, n_direct=int(direct))
    assert engine.failure is not None
    assert engine.failure[:3] == ("end", 0, errno.ENODATA)
    assert engine.done_nbytes == 0


@TABLES
@pytest.mark.parametrize("left", [0, 1, SECTOR - 1, SECTOR, 3 * SECTOR + 17])
def test_a_file_cut_short_is_the_end_for_memory_on_no_sector(
    io: str, left: int, tmp_path: Path, make_bench: Make
) -> None:
    # What a direct read brought of the last op goes on from where it stays, not from its slot.
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(4 * 4 * SECTOR))
    for i in range(4):
        bench.add_op(i * 4 * SECTOR, 4 * SECTOR, at=i * 5 * SECTOR + 64)
    os.truncate(tmp_path / "file", 3 * 4 * SECTOR + left)
    engine = bench.run(io, bounced=True, slot_nbytes=4 * SECTOR)
    assert engine.failure is not None
    assert engine.failure[:3] == ("end", 3, errno.ENODATA)
    at, content = bench.wanted.pop()
    bench.ops.pop()
    # A direct read that brings the end of the file is asked for once more, from its last sector.
    whole = left // SECTOR * SECTOR
    assert bench.view[at : at + whole].tobytes() == content[:whole]
    assert (bench.view[at + 4 * SECTOR :] == 0xA5).all()


@TABLES
def test_damage_never_leaves_its_slot(io: str, tmp_path: Path, make_bench: Make) -> None:
    bench = make_bench(3 * MIB)
    bench.add_file(tmp_path / "file", noise(2 * MIB))
    bench.add_op(0, 2 * MIB, at=64, blocks=[MIB, MIB])
    damaged = bytearray(bench.contents[0])
    damaged[MIB + 5] ^= 1
    (tmp_path / "file").write_bytes(damaged)
    engine = bench.run(io, bounced=True, slot_nbytes=2 * MIB)
    assert engine.failure is not None
    assert engine.failure == ("checksum", 0, crc32c(damaged[MIB:]), 1)
    assert bench.view[64 : 64 + MIB].tobytes() == bytes(damaged[:MIB])
    assert (bench.view[64 + MIB :] == 0xA5).all()


# ---- reads fail ----


@TABLES
@DIRECT
@pytest.mark.parametrize("number", [-1, 1 << 30])
def test_a_bad_descriptor_is_a_failed_read(
    io: str, direct: bool, number: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 3)
    for fds in (bench.direct_fds, bench.buffered_fds):
        os.close(fds.pop())
        fds.append(number)
    try:
        engine = bench.run(io, n_direct=3 if direct else 0)
    finally:
        bench.direct_fds = bench.buffered_fds = []
    assert engine.failure is not None
    kind, op, code, _ = engine.failure
    assert (kind, code) == ("read", errno.EBADF)
    assert op in range(3)
    assert engine.done_nbytes == 0


@TABLES
@pytest.mark.parametrize(
    ("what", "code"), [("folder", errno.EISDIR), ("pipe", errno.ESPIPE), ("writer", errno.EBADF)]
)
def test_what_cannot_be_read_tells_its_errno(
    io: str, what: str, code: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 1)
    reading, writing = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    writer = os.open(tmp_path / "file", os.O_WRONLY)
    good = bench.buffered_fds
    try:
        bench.buffered_fds = [{"folder": folder, "pipe": reading, "writer": writer}[what]]
        engine = bench.run(io, n_direct=0)
    finally:
        bench.buffered_fds = good
        for fd in (reading, writing, folder, writer):
            os.close(fd)
    assert engine.failure is not None
    assert engine.failure[:3] == ("read", 0, code)


@TABLES
def test_a_direct_read_at_an_odd_place_is_refused_by_the_kernel(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 1)
    try:
        _core.pread_into(bench.direct_fds[0], memoryview(bytearray(SECTOR + 1))[1:], 1)
    except OSError:
        pass
    else:
        pytest.skip("set-up: this file system takes direct reads of any place")
    offset, address, *rest = bench.ops[0]
    bench.ops[0] = (offset + 1, address, SECTOR, *rest[1:])
    engine = bench.run(io)
    assert engine.failure is not None
    assert engine.failure[:3] == ("read", 0, errno.EINVAL)


@TABLES
def test_memory_that_is_not_there_is_a_failed_read(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 1)
    bench.ops[0] = (0, SECTOR, *bench.ops[0][2:])  # the first pages are never mapped
    for count in (1, 0):
        engine = bench.run(io, n_direct=count, verify=False)
        assert engine.failure is not None
        assert engine.failure[:3] == ("read", 0, errno.EFAULT)


@TABLES
@pytest.mark.parametrize("workers", [1, 4])
def test_one_failure_among_many_reads_stops_them_all(
    io: str, workers: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(4 * MIB), tmp_path / "file", 200)
    bench.add_file(tmp_path / "other", b"")
    bad = 70
    bench.ops[bad] = (*bench.ops[bad][:4], 1, *bench.ops[bad][5:])
    engine = bench.run(io, n_direct=120, workers=workers, depth=16)
    assert engine.failure is not None
    assert engine.failure[:2] == ("end", bad)
    assert engine.done_nbytes < 200 * 4 * SECTOR
    # Nothing is in flight any more: what is written now stays.
    bench.view[:] = 1
    time.sleep(0.05)
    assert (bench.view == 1).all()


# ---- checksums ----


@TABLES
@DIRECT
@pytest.mark.parametrize("block", [0, 1, 2, 5, 7])
def test_a_wrong_checksum_names_the_block_and_what_was_found(
    io: str, direct: bool, block: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(8 * SECTOR))
    for i in range(2):
        sizes = [SECTOR, 100, 2 * SECTOR - 100, 777]
        bench.add_op(i * 4 * SECTOR, sum(sizes), room=4 * SECTOR, blocks=sizes)
    start, nbytes, crc = bench.blocks[block]
    offset = bench.ops[block // 4][0] + start
    with (tmp_path / "file").open("r+b") as stream:
        stream.seek(offset + nbytes // 2)
        stream.write(bytes([bench.contents[0][offset + nbytes // 2] ^ 0x10]))
        stream.flush()
        os.fsync(stream.fileno())
    engine = bench.run(io, n_direct=2 if direct else 0)
    damaged = (tmp_path / "file").read_bytes()[offset : offset + nbytes]
    assert crc32c(damaged) != crc
    assert engine.failure == ("checksum", block // 4, crc32c(damaged), block)
    # Without verification the bytes are handed over as they are.
    assert bench.run(io, n_direct=2 if direct else 0, verify=False).failure is None
    at = bench.ops[block // 4][1] - bench.memory.address + start
    assert bench.view[at : at + nbytes].tobytes() == damaged


@TABLES
def test_a_checksum_above_31_bits_is_told_as_it_is(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    seed = next(s for s in range(100) if crc32c(noise(SECTOR, s)) >> 31)
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(SECTOR, seed))
    bench.add_op(0, SECTOR)
    bench.blocks[0] = (0, SECTOR, 0)
    engine = bench.run(io)
    assert engine.failure == ("checksum", 0, crc32c(bench.contents[0]), 0)


@TABLES
def test_the_padding_is_not_part_of_a_checksum(io: str, tmp_path: Path, make_bench: Make) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(2 * SECTOR))
    bench.add_op(0, 100, room=2 * SECTOR)
    assert bench.run(io).failure is None


# ---- stopping ----


@TABLES
def test_an_engine_that_was_stopped_reads_nothing(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 10)
    engine = bench.engine(io, n_direct=5, workers=2)
    engine.stop()
    work(engine)
    assert engine.failure is None
    assert engine.done_nbytes == 0
    assert (bench.view == 0xA5).all()


@TABLES
@DIRECT
def test_stopping_leaves_nothing_in_flight(
    io: str, direct: bool, tmp_path: Path, make_bench: Make
) -> None:
    n_ops, nbytes = 64, MIB // 4
    bench = filled(make_bench(n_ops * nbytes), tmp_path / "file", n_ops, nbytes)
    for _ in range(8):
        engine = bench.engine(io, n_direct=n_ops if direct else 0, depth=8, workers=2)
        threads = [threading.Thread(target=engine.work) for _ in range(2)]
        for thread in threads:
            thread.start()
        while engine.done_nbytes == 0 and any(thread.is_alive() for thread in threads):
            time.sleep(0.0002)
        engine.stop()
        for thread in threads:
            thread.join()
        assert engine.failure is None
        assert not engine.undrained
        done = engine.done_nbytes
        assert 0 < done <= n_ops * nbytes
        bench.view[:] = 1
        time.sleep(0.02)
        assert (bench.view == 1).all()
        assert engine.done_nbytes == done


# ---- no ring ----


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """As many descriptors as are open now, and not one more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/dev/null", os.O_RDONLY)  # the lowest free number is the limit
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_that_gets_no_ring_reads_without_and_says_so(
    tmp_path: Path, make_bench: Make
) -> None:
    need("io_uring")
    bench = filled(make_bench(MIB), tmp_path / "file", 20)
    engine = bench.engine("io_uring", n_direct=12, workers=3)
    with no_more_descriptors():
        work(engine)
    assert engine.failure is None
    assert engine.ring_errno == errno.EMFILE
    assert engine.without_ring == 3
    bench.check()


def test_the_probe_tells_why_there_is_no_ring() -> None:
    need("io_uring")
    with no_more_descriptors():
        assert _core.io_uring_errno() == errno.EMFILE
    assert _core.io_uring_errno() == 0


def test_an_engine_with_rings_has_nothing_to_say(tmp_path: Path, make_bench: Make) -> None:
    bench = filled(make_bench(MIB), tmp_path / "file", 5)
    engine = bench.run("io_uring", workers=2)
    assert (engine.ring_errno, engine.without_ring, engine.scratch_nbytes) == (0, 0, 0)
