"""The engine, op by op, with both I/O tables: what it reads, and that it touches nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckptfmt._core import Engine, crc32c
from tests.helpers.engines import Bench, as_bytes, need, noise, work
from tests.helpers.indexes import MIB
from tests.helpers.process import descriptor_count, mapping_count

Make = Callable[[int], Bench]
TABLES = pytest.mark.parametrize("io", ["io_uring", "pread"])
KINDS = pytest.mark.parametrize("kind", ["direct", "buffered", "mixed"])
SECTOR = 4096


def n_direct(bench: Bench, kind: str) -> int:
    """How many ops of a bench are direct."""
    return {"direct": len(bench.ops), "buffered": 0, "mixed": len(bench.ops) // 2}[kind]


@TABLES
@KINDS
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_file_is_read_whole(
    io: str, kind: str, depth: int, workers: int, tmp_path: Path, make_bench: Make
) -> None:
    content = noise(3 * MIB + 5000)
    bench = make_bench(4 * MIB)
    bench.add_file(tmp_path / "file", content)
    for offset in range(0, len(content), 128 * 1024):
        nbytes = min(128 * 1024, len(content) - offset)
        bench.add_op(offset, nbytes, room=-(-nbytes // SECTOR) * SECTOR)
    engine = bench.run(io, n_direct=n_direct(bench, kind), depth=depth, workers=workers)
    assert engine.failure is None
    assert engine.done_nbytes == len(content)
    assert engine.workers == workers
    bench.check()
    seconds = engine.seconds
    assert seconds["checksum"] > 0
    if kind != "direct":
        assert seconds["buffered_read"] > 0
    if kind != "buffered":
        assert seconds["disk_wait"] > 0


@TABLES
@KINDS
@pytest.mark.parametrize("nbytes", [1, 100, 4095, 4096, 4097, 12289, MIB - 1, MIB + 1])
@pytest.mark.parametrize("spare", [0, 1, 4095])
def test_ops_of_any_size_stay_within_their_room(
    io: str, kind: str, nbytes: int, spare: int, tmp_path: Path, make_bench: Make
) -> None:
    # Two ops with guards between: one where sectors may be rounded up, one where they may not.
    bench = make_bench(4 * MIB)
    bench.add_file(tmp_path / "file", noise(3 * MIB))
    padded = -(-nbytes // SECTOR) * SECTOR
    bench.add_op(0, nbytes, at=0, room=min(nbytes + spare, padded))
    bench.add_op(8192, nbytes, at=2 * MIB, room=padded)
    assert bench.run(io, n_direct=n_direct(bench, kind)).failure is None
    bench.check()


@TABLES
@pytest.mark.parametrize("tail", [0, 1, 511, 512, 513, 4095])
def test_the_last_op_ends_with_the_file(
    io: str, tail: int, tmp_path: Path, make_bench: Make
) -> None:
    # The rounded read wants a whole sector and the file ends before: that is no failure.
    content = noise(3 * SECTOR + tail)
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", content)
    bench.add_op(SECTOR, len(content) - SECTOR, room=4 * SECTOR)
    assert bench.run(io).failure is None
    bench.check()


@TABLES
def test_ops_of_many_files_find_theirs(io: str, tmp_path: Path, make_bench: Make) -> None:
    bench = make_bench(2 * MIB)
    rng = random.Random(1)
    for number in range(20):
        bench.add_file(tmp_path / str(number), noise(64 * 1024, number))
    for slot in range(100):
        nbytes = rng.randrange(1, 3 * SECTOR)
        at, offset = slot * 4 * SECTOR, SECTOR * rng.randrange(10)
        bench.add_op(offset, nbytes, at=at, room=4 * SECTOR, file=rng.randrange(20))
    assert bench.run(io, n_direct=50, workers=3).failure is None
    bench.check()


@TABLES
@pytest.mark.parametrize("seed", range(10))
def test_any_ops_are_read_as_by_slicing(
    io: str, seed: int, tmp_path: Path, make_bench: Make
) -> None:
    rng = random.Random(seed)
    bench = make_bench(6 * MIB)
    bench.add_file(tmp_path / "file", noise(2 * MIB + rng.randrange(SECTOR), seed))
    size = len(bench.contents[0])
    at = 0
    while at < 5 * MIB:
        offset = SECTOR * rng.randrange(size // SECTOR)
        nbytes = min(int(10 ** rng.uniform(0, 5.8)) + 1, size - offset)
        cuts = sorted(rng.sample(range(1, nbytes), min(nbytes - 1, rng.randrange(5))))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, nbytes], strict=True)]
        room = nbytes + rng.choice([0, 0, 1, 300, SECTOR])
        bench.add_op(offset, nbytes, at=at, room=room, blocks=sizes)
        at = -(-(at + room) // SECTOR) * SECTOR + SECTOR * rng.randrange(3)
    bench.ops.sort(key=lambda op: rng.random())
    bench.wanted = [
        (op[1] - bench.memory.address, bench.contents[0][op[0] : op[0] + op[2]])
        for op in bench.ops
    ]
    engine = bench.run(
        io, n_direct=rng.randint(0, len(bench.ops)), depth=rng.randint(1, 32),
        workers=rng.randint(1, 4),
    )  # fmt: skip
    assert engine.failure is None
    assert engine.done_nbytes == sum(op[2] for op in bench.ops)
    bench.check()


@TABLES
def test_more_workers_than_ops_and_more_depth_than_work(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(SECTOR))
    bench.add_op(0, SECTOR)
    assert bench.run(io, workers=8, depth=256).failure is None
    bench.check()


@TABLES
def test_no_ops_are_done_at_once(io: str) -> None:
    need(io)
    fds = as_bytes(np.array([-1], np.int32))
    nothing = memoryview(bytearray())
    engine = Engine(
        nothing, nothing, fds, fds, n_direct=0, io=io, depth=4, workers=2, verify=True
    )
    work(engine)
    assert engine.failure is None
    assert engine.done_nbytes == 0


@pytest.mark.parametrize("io", ["", "uring", "aio", None])
def test_there_are_two_tables(io: str) -> None:
    fds = as_bytes(np.array([-1], np.int32))
    with pytest.raises(ValueError, match="'io_uring' or 'pread'"):
        Engine(b"", b"", fds, fds, n_direct=0, io=io, depth=1, workers=1, verify=True)


@TABLES
def test_a_thread_fewer_than_announced_does_all_the_work(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(MIB))
    for offset in range(0, MIB, SECTOR):
        bench.add_op(offset, SECTOR)
    engine = bench.engine(io, n_direct=100, workers=4)
    engine.work()
    assert engine.failure is None
    bench.check()


@TABLES
def test_descriptors_and_mappings_are_given_back(
    io: str, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(MIB)
    bench.add_file(tmp_path / "file", noise(MIB))
    bench.add_op(0, MIB)
    bench.run(io)
    before = descriptor_count(), mapping_count()
    for _ in range(100):
        bench.run(io, workers=2)
    assert descriptor_count() == before[0]
    assert mapping_count() - before[1] < 10


# ---- memory that starts on no sector ----


@TABLES
@KINDS
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_for_memory_on_no_sector_are_copied_there(
    io: str, kind: str, verify: bool, workers: int, tmp_path: Path, make_bench: Make
) -> None:
    # To any address, with a guard behind the last byte; some start on a sector, and get no copy.
    rng = random.Random(workers)
    bench = make_bench(8 * MIB)
    bench.add_file(tmp_path / "file", noise(7 * MIB + 77))
    at, offset = 0, 0
    while offset < len(bench.contents[0]):
        nbytes = min(rng.choice([1, 4095, SECTOR, 70_000, MIB + 1]), 7 * MIB + 77 - offset)
        cut = nbytes // 2
        bench.add_op(offset, nbytes, at=at, blocks=[cut, nbytes - cut] if cut else [nbytes])
        at += nbytes + rng.choice([1, 64, 4096 - (at + nbytes) % 4096])
        offset += -(-nbytes // SECTOR) * SECTOR
    assert {op[1] % SECTOR == 0 for op in bench.ops} == {True, False}
    engine = bench.run(
        io, n_direct=n_direct(bench, kind), workers=workers, depth=3, verify=verify,
        bounced=True, slot_nbytes=MIB + SECTOR,
    )  # fmt: skip
    assert engine.failure is None
    assert engine.done_nbytes == sum(op[2] for op in bench.ops)
    assert engine.scratch_nbytes == (4 if io == "io_uring" else 2) * workers * (MIB + SECTOR)
    bench.check()


# ---- scanning ----


def scan(bench: Bench, io: str, **options: object) -> tuple[Engine, list[int], list[int]]:
    """Run a bench as a scan; the checksums found, and what was dirty."""
    found = np.zeros(len(bench.blocks), np.uint32)
    dirty = np.full(len(bench.blocks), 9, np.uint8)
    slot = -(-max(op[2] for op in bench.ops) // SECTOR) * SECTOR
    engine = bench.run(
        io, found=as_bytes(found), dirty=as_bytes(dirty), slot_nbytes=slot, **options
    )
    return engine, found.tolist(), dirty.tolist()


@TABLES
@KINDS
@pytest.mark.parametrize("workers", [1, 3])
def test_a_scan_tells_every_checksum_and_touches_no_memory(
    io: str, kind: str, workers: int, tmp_path: Path, make_bench: Make
) -> None:
    bench = make_bench(SECTOR)
    bench.add_file(tmp_path / "file", noise(2 * MIB + 77))
    for offset in range(0, 2 * MIB + 77, 64 * 1024):
        nbytes = min(64 * 1024, 2 * MIB + 77 - offset)
        bench.add_op(offset, nbytes, blocks=[nbytes - 1, 1], at=0)
    bench.blocks = [(start, nbytes, 0) for start, nbytes, _ in bench.blocks]  # compared with none
    engine, found, dirty = scan(
        bench, io, n_direct=n_direct(bench, kind), depth=4, workers=workers
    )
    assert engine.failure is None
    content = bench.contents[0]
    wanted = [
        crc32c(content[op[0] + start : op[0] + start + nbytes])
        for op in bench.ops
        for start, nbytes, _ in bench.blocks[op[6] : op[6] + op[5]]
    ]
    assert found == wanted
    assert dirty == [0] * len(wanted)
    assert engine.scratch_nbytes > 0
    assert bench.view.tobytes() == bytes([0xA5]) * SECTOR


@TABLES
@KINDS
@pytest.mark.parametrize("at", [100, 4095, 8192 + 50, 3 * SECTOR - 1])
def test_a_scan_sees_what_stands_in_the_padding(
    io: str, kind: str, at: int, tmp_path: Path, make_bench: Make
) -> None:
    content = bytearray(3 * SECTOR)
    content[:100] = noise(100)
    content[SECTOR : 2 * SECTOR + 50] = noise(SECTOR + 50)
    blocks = [(0, 100, 0), (SECTOR, SECTOR + 50, 0)]
    for value in (0, 1):
        content[at] = value
        bench = make_bench(SECTOR)
        bench.add_file(tmp_path / f"file{value}", bytes(content))
        for _ in range(2):
            first = len(bench.blocks)
            bench.blocks += blocks
            bench.ops.append((0, 0, 3 * SECTOR, 3 * SECTOR, 0, 2, first))
        _, found, dirty = scan(bench, io, n_direct=n_direct(bench, kind))
        assert dirty == [value * (at < SECTOR), value * (at >= SECTOR)] * 2
        assert found[0] == crc32c(content[:100])
        assert found[1] == crc32c(content[SECTOR : 2 * SECTOR + 50])
