"""Any plan, carried out by the engine, gives the bytes that plain slicing gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt._core import Engine, Memory, crc32c
from ckptfmt.extents import Extents, compact_addresses
from ckptfmt.read_plan import plan_read
from tests.helpers.engines import GUARD, as_bytes, need, noise, open_direct, work
from tests.helpers.indexes import MIB, make_index, sized
from tests.helpers.mutations import fuzz_settings

FILE_NBYTES = 12 * MIB
SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(1, 40_000),
    st.sampled_from([4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 4096]),
    st.integers(1, 4 * MIB),
)
FUZZ = settings(fuzz_settings, max_examples=400)


class Noise:
    """One file of noise that plays every partition: what is read depends on offsets alone."""

    def __init__(self, path: Path) -> None:
        self.content = noise(FILE_NBYTES)
        path.write_bytes(self.content)
        self.direct_fd = open_direct(path)
        self.stream = path.open("rb")

    def fds(self, count: int) -> tuple[memoryview, memoryview]:
        direct = np.full(max(count, 1), self.direct_fd, np.int32)
        return as_bytes(direct), as_bytes(np.full_like(direct, self.stream.fileno()))

    def close(self) -> None:
        os.close(self.direct_fd)
        self.stream.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noise]:
    made = Noise(tmp_path_factory.mktemp("noise") / "file")
    yield made
    made.close()


@pytest.mark.parametrize("io", ["io_uring", "pread"])
@FUZZ
@given(data=st.data())
def test_any_plan_gives_the_bytes_of_the_files(io: str, file: Noise, data: st.DataObject) -> None:
    need(io)
    sizes = data.draw(st.lists(SIZES, max_size=12), "sizes")
    alignment = data.draw(st.sampled_from([4096, 4096, 65536, MIB, 2 * MIB]), "alignment")
    least = alignment + max(alignment, MIB) + 4096
    limit = data.draw(st.integers(least, FILE_NBYTES), "limit")
    made = make_index(sized(sizes), alignment=alignment, partition_nbytes=limit)
    extents = Extents.of(made)
    wanted = data.draw(st.sets(st.sampled_from(range(len(sizes)))) if sizes else st.just(set()))
    chosen = extents.of_tensors(sorted(wanted))
    offset, nbytes = extents.offset[chosen], extents.nbytes[chosen]
    crcs = np.zeros(int(-(-extents.nbytes // MIB).sum()), np.uint32)
    for block, (tensor, _, at, length) in enumerate(made.blocks()):
        if int(tensor.name[1:]) in wanted:
            crcs[block] = crc32c(memoryview(file.content)[at : at + length])

    padding = data.draw(st.booleans(), "padding")
    tight = not padding and data.draw(st.booleans(), "tight room")
    addresses = compact_addresses(extents, chosen)
    if tight:  # as load_into: anywhere, and not a byte more than the tensor
        shift = data.draw(st.integers(0, 5000), "shift")
        addresses = addresses + shift * np.arange(1, len(chosen) + 1)
    total = int(addresses[-1] + extents.span[chosen[-1]]) + 4096 if len(chosen) else 4096
    memory = Memory(total)
    view = np.frombuffer(memory.region(0, total, total), np.uint8)
    view[:] = GUARD
    plan = plan_read(
        extents, chosen, addresses + memory.address, crcs,
        op_nbytes=MIB * data.draw(st.sampled_from([1, 2, 4, 7]), "op MiB"),
        room=nbytes if tight else None, padding=padding,
    )  # fmt: skip

    ops = plan.ops[np.array(data.draw(st.permutations(range(len(plan.ops)))), np.int64)]
    bounced = bool((ops["address"] % 4096).any())
    slot_nbytes = int(ops["nbytes"].max() + 4095) // 4096 * 4096 if bounced else 0
    n_direct = data.draw(st.integers(0, len(ops)), "direct")
    direct_fds, buffered_fds = file.fds(len(made.partitions))
    engine = Engine(
        as_bytes(ops) if len(ops) else memoryview(b""), as_bytes(plan.blocks),
        direct_fds, buffered_fds, n_direct=n_direct, io=io, verify=data.draw(st.booleans()),
        bounced=bounced, slot_nbytes=slot_nbytes,
        depth=data.draw(st.integers(1, 32), "depth"),
        workers=data.draw(st.integers(1, 4), "workers"),
    )  # fmt: skip
    work(engine)

    assert engine.failure is None
    assert engine.done_nbytes == plan.nbytes
    touched = np.zeros(total, bool)
    for at, start, length, span in zip(
        addresses.tolist(), offset.tolist(), nbytes.tolist(), extents.span[chosen].tolist(),
        strict=True,
    ):  # fmt: skip
        assert view[at : at + length].tobytes() == file.content[start : start + length]
        touched[at : at + (length if tight else span)] = True
        if padding:
            assert view[at : at + span].tobytes() == file.content[start : start + span]
    assert (view[~touched] == GUARD).all()


@pytest.mark.parametrize("io", ["io_uring", "pread"])
@FUZZ
@given(data=st.data())
def test_any_scan_finds_the_checksums_of_the_files(
    io: str, file: Noise, data: st.DataObject
) -> None:
    need(io)
    sizes = data.draw(st.lists(SIZES.filter(bool), min_size=1, max_size=8), "sizes")
    alignment = data.draw(st.sampled_from([4096, 4096, 65536, 2 * MIB]), "alignment")
    made = make_index(sized(sizes), alignment=alignment, partition_nbytes=FILE_NBYTES)
    extents = Extents.of(made)
    chosen = np.arange(len(extents.tensor))
    blocks = list(made.blocks())
    padding = data.draw(st.booleans(), "padding")
    plan = plan_read(
        extents, chosen, compact_addresses(extents, chosen), np.zeros(len(blocks), np.uint32),
        op_nbytes=MIB * data.draw(st.sampled_from([1, 4]), "op MiB"), padding=padding,
    )  # fmt: skip
    found, dirty = np.zeros(len(blocks), np.uint32), np.zeros(len(blocks), np.uint8)
    direct_fds, buffered_fds = file.fds(len(made.partitions))
    engine = Engine(
        as_bytes(plan.ops), as_bytes(plan.blocks), direct_fds, buffered_fds, io=io, verify=True,
        n_direct=data.draw(st.integers(0, len(plan.ops)), "direct"), found=as_bytes(found),
        dirty=as_bytes(dirty), slot_nbytes=-(-int(plan.ops["nbytes"].max()) // 4096) * 4096,
        depth=data.draw(st.integers(1, 9), "depth"),
        workers=data.draw(st.integers(1, 3), "workers"),
    )  # fmt: skip
    work(engine)
    assert engine.failure is None
    content = memoryview(file.content)
    assert found.tolist() == [crc32c(content[at : at + length]) for *_, at, length in blocks]
    if padding:
        assert dirty.tolist() == [
            int(at + length == extent.offset + extent.nbytes and any(content[at + length : stop]))
            for _, extent, at, length in blocks
            for stop in [extent.offset + -(-extent.nbytes // alignment) * alignment]
        ]
