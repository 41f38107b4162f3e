"""Device memory: allocations that can be freed one by one, and copies of every byte, once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from ckptfmt.device_plan import (
    ARENA_NBYTES,
    COPY_DTYPE,
    OWN_NBYTES,
    DevicePlan,
    allocate_plan,
    plan_copies,
)
from ckptfmt.extents import Extents, compact_addresses
from ckptfmt.index import Index
from ckptfmt.read_plan import ReadPlan, plan_read
from tests.helpers.indexes import MIB, make_index, sized

BASE = 0x12C0_0000_0000


# ---- allocations ----


def allocated(sizes: Sequence[int], *, alignment: int = 4096) -> DevicePlan:
    made = make_index(sized(sizes), alignment=alignment)
    return allocate_plan(made, range(len(sizes)))


def examine_allocations(made: Index, positions: Sequence[int]) -> DevicePlan:
    """Check an allocation plan tensor by tensor, without its own arithmetic."""
    plan = allocate_plan(made, positions)
    place = plan.place
    step = 4096 if made.alignment == 4096 else 512
    assert plan.positions.tolist() == sorted(set(positions))
    assert set(place) == {p for p in positions if made.tensors[p].nbytes}
    members: dict[int, list[int]] = {}
    for position in sorted(place):
        members.setdefault(place[position][0], []).append(position)
    assert list(members) == list(range(len(plan.allocations)))  # in file order, none for nothing
    arenas = []
    for number, inside in members.items():
        sizes = [made.tensors[p].nbytes for p in inside]
        if sizes[0] >= OWN_NBYTES:
            assert place[inside[0]] == (number, 0)
            assert [plan.allocations[number]] == sizes
            continue
        arenas.append(number)
        end = 0
        for position, nbytes in zip(inside, sizes, strict=True):
            assert nbytes < OWN_NBYTES
            assert place[position][1] == end
            end += -(-nbytes // step) * step
        assert plan.allocations[number] == end <= ARENA_NBYTES
    # An arena ends only where the next small tensor has no room in it.
    for number, following in pairwise(arenas):
        first = made.tensors[members[following][0]].nbytes
        assert plan.allocations[number] + first > ARENA_NBYTES
    return plan


def test_the_sizes_are_those_of_the_design() -> None:
    assert (OWN_NBYTES, ARENA_NBYTES) == (1 << 20, 32 << 20)
    assert COPY_DTYPE.itemsize == 32


def test_large_tensors_stand_alone_and_small_ones_share() -> None:
    plan = allocated([10, MIB, MIB - 1, 3 * MIB + 5, 4097])
    assert plan.allocations == [4096 + MIB + 8192, MIB, 3 * MIB + 5]
    assert plan.place == {0: (0, 0), 1: (1, 0), 2: (0, 4096), 3: (2, 0), 4: (0, 4096 + MIB)}


def test_other_alignments_pack_closer() -> None:
    plan = allocated([10, 513, 4096, 1], alignment=8192)
    assert plan.place == {0: (0, 0), 1: (0, 512), 2: (0, 1536), 3: (0, 5632)}
    assert plan.allocations == [6144]


def test_an_arena_is_filled_to_the_last_byte() -> None:
    plan = allocated([MIB // 2] * 65)
    assert plan.allocations == [32 * MIB, MIB // 2]
    assert plan.place[64] == (1, 0)


def test_what_has_no_bytes_gets_no_memory() -> None:
    plan = allocated([0, 10, 0])
    assert plan.place == {1: (0, 0)}
    assert plan.positions.tolist() == [0, 1, 2]
    assert plan.allocation.tolist() == [-1, 0, -1]
    assert allocated([0]).allocations == []
    assert allocate_plan(make_index(sized([5])), []).place == {}


def test_positions_come_in_any_order_and_tied_ones_more_than_once() -> None:
    made = make_index(sized([10, 20, 2 * MIB]))
    plan = allocate_plan(made, [2, 0, 2, 0])
    assert plan.place == {0: (0, 0), 2: (1, 0)}


@pytest.mark.parametrize("seed", range(30))
def test_any_choice_has_its_place(seed: int) -> None:
    rng = random.Random(seed)
    alignment = 4096 << rng.choice([0, 0, 1, 9])
    sizes = [int(10 ** rng.uniform(0, 6.5)) * rng.choice([0, 1, 1, 1]) for _ in range(150)]
    sizes += [OWN_NBYTES, OWN_NBYTES - 1, ARENA_NBYTES, ARENA_NBYTES + 1]
    made = make_index(sized(sizes), alignment=alignment, partition_nbytes=16 * MIB)
    examine_allocations(made, rng.sample(range(len(sizes)), rng.randint(0, len(sizes))))


# ---- copies ----


class Model:
    """Files and a device as plain bytes; plans are carried out as an engine would."""

    def __init__(self, made: Index, seed: int = 0) -> None:
        self.made = made
        self.extents = Extents.of(made)
        rng = np.random.default_rng(seed)
        sizes = [made.alignment + p.payload_nbytes for p in made.partitions]
        self.files = [np.zeros(nbytes, np.uint8) for nbytes in sizes]
        for tensor in made.tensors:
            for e in tensor.extents:
                data = rng.integers(1, 256, e.nbytes, np.uint8)
                self.files[e.partition][e.offset : e.offset + e.nbytes] = data

    def read_plan(self, mine: npt.NDArray[np.int64], *, op_mib: int = 4) -> ReadPlan:
        crcs = np.zeros(len(list(self.made.blocks())), np.uint32)
        addresses = compact_addresses(self.extents, mine)
        return plan_read(self.extents, mine, addresses, crcs, op_nbytes=op_mib * MIB)

    def content(self, position: int) -> npt.NDArray[np.uint8]:
        parts = [
            self.files[e.partition][e.offset : e.offset + e.nbytes]
            for e in self.made.tensors[position].extents
        ]
        return np.concatenate(parts)


def plan_all(
    model: Model, reads: ReadPlan, mine: npt.NDArray[np.int64], addresses: npt.NDArray[np.int64],
    room: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:  # fmt: skip
    """The copies of what `Model.read_plan` reads."""
    at = compact_addresses(model.extents, mine)
    return plan_copies(reads, at, model.extents.nbytes[mine], addresses, room)


class Device:
    """Allocations at addresses; tells what was written where, and how often."""

    def __init__(self, plan: DevicePlan, gaps: Sequence[int]) -> None:
        self.plan = plan
        self.bases = []
        at = BASE
        for nbytes, gap in zip(plan.allocations, gaps, strict=True):
            self.bases.append(at)
            at += -(-nbytes // 512) * 512 + gap  # as allocators do
        self.memory = [np.zeros(n, np.uint8) for n in plan.allocations]
        self.writes = [np.zeros(n, np.uint8) for n in plan.allocations]

    def where(
        self, extents: Extents, mine: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Address and room of each extent, one after the other."""
        addresses, room, filled = [], [], dict.fromkeys(self.plan.place, 0)
        for extent in mine.tolist():
            position = int(extents.tensor[extent])
            number, offset = self.plan.place[position]
            offset += filled[position]
            addresses.append(self.bases[number] + offset)
            room.append(self.plan.allocations[number] - offset)
            filled[position] += int(extents.nbytes[extent])
        return np.array(addresses, np.int64), np.array(room, np.int64)

    def write(self, address: int, room: int, data: npt.NDArray[np.uint8]) -> None:
        """As a runtime would: within one allocation, and within what is said to be there."""
        number = max(i for i, base in enumerate(self.bases) if base <= address)
        offset = address - self.bases[number]
        assert len(data) <= room
        assert offset + room == self.plan.allocations[number]
        self.memory[number][offset : offset + len(data)] = data
        self.writes[number][offset : offset + len(data)] += 1


def carry_out(
    model: Model, device: Device, plan: ReadPlan, copies: npt.NDArray[np.void],
    begins: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Run every op and its copies, the last op first."""
    assert begins.dtype == np.int64
    assert begins.tolist() == sorted(begins.tolist())
    assert (begins[0], begins[-1], len(begins)) == (0, len(copies), len(plan.ops) + 1)
    for i in reversed(range(len(plan.ops))):
        op = plan.ops[i]
        slot = model.files[int(op["file"])][int(op["offset"]) :][: int(op["nbytes"])]
        for copy in copies[int(begins[i]) : int(begins[i + 1])]:
            start, nbytes = int(copy["start"]), int(copy["nbytes"])
            assert 0 <= start < start + nbytes <= len(slot)
            assert start % 64 == int(copy["address"]) % 64 == 0
            device.write(int(copy["address"]), int(copy["room"]), slot[start : start + nbytes])


def assert_filled(model: Model, device: Device) -> None:
    """Each tensor is there, written once; between them lie zeros at most."""
    for position, (number, offset) in device.plan.place.items():
        nbytes = model.made.tensors[position].nbytes
        found = device.memory[number][offset : offset + nbytes]
        assert np.array_equal(found, model.content(position))
        assert (device.writes[number][offset : offset + nbytes] == 1).all()
        device.memory[number][offset : offset + nbytes] = 0
    assert not any(memory.any() for memory in device.memory)
    assert all(writes.max(initial=0) <= 1 for writes in device.writes)


def copied(
    sizes: Sequence[int], positions: Sequence[int] | None = None, *, alignment: int = 4096,
    gap: int = 0,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:  # fmt: skip
    """Plan and carry out; the copies, for what they should look like."""
    model = Model(make_index(sized(sizes), alignment=alignment))
    plan = allocate_plan(model.made, range(len(sizes)) if positions is None else positions)
    device = Device(plan, [gap] * len(plan.allocations))
    mine = model.extents.of_tensors(plan.positions.tolist())
    reads = model.read_plan(mine)
    found = plan_all(model, reads, mine, *device.where(model.extents, mine))
    carry_out(model, device, reads, *found)
    assert_filled(model, device)
    return found


def test_small_neighbours_come_in_one_copy() -> None:
    copies, begins = copied([10, 4096, 5000, 1])
    assert copies.tolist() == [(0, 16384 + 1, BASE, 5 * 4096)]
    assert begins.tolist() == [0, 1]


def test_closer_packing_takes_a_copy_for_each() -> None:
    copies, _ = copied([10, 4096, 5000], alignment=8192)
    assert copies["start"].tolist() == [0, 8192, 16384]
    assert copies["nbytes"].tolist() == [10, 4096, 5000]
    assert (copies["address"] - BASE).tolist() == [0, 512, 512 + 4096]
    assert copies["room"].tolist() == [9728, 9216, 5120]


def test_no_copy_crosses_from_one_allocation_into_the_next() -> None:
    # They lie next to each other on the device as they do in the file.
    copies, begins = copied([MIB, MIB, 2 * MIB])
    assert copies["nbytes"].tolist() == [MIB, MIB, 2 * MIB]
    assert copies["room"].tolist() == [MIB, MIB, 2 * MIB]
    assert begins.tolist() == [0, 3]


def test_a_large_tensor_is_copied_op_by_op() -> None:
    copies, begins = copied([10 * MIB + 5])
    assert copies["nbytes"].tolist() == [4 * MIB, 4 * MIB, 2 * MIB + 5]
    assert (copies["address"] - BASE).tolist() == [0, 4 * MIB, 8 * MIB]
    assert copies["room"].tolist() == [10 * MIB + 5, 6 * MIB + 5, 2 * MIB + 5]
    assert begins.tolist() == [0, 1, 2, 3]


def test_a_large_tensor_between_small_ones_parts_their_copies() -> None:
    copies, _ = copied([100, 200, MIB, 300])
    assert copies["nbytes"].tolist() == [4096 + 200, MIB, 300]
    assert (copies["address"] - BASE).tolist() == [0, 3 * 4096, 8192]


@pytest.mark.parametrize("positions", [[], [1]])
def test_nothing_to_read_is_nothing_to_copy(positions: list[int]) -> None:
    copies, begins = copied([5, 0], positions)
    assert len(copies) == 0
    assert begins.tolist() == [0]


def test_ops_in_another_order_have_their_own_copies() -> None:
    model = Model(make_index(sized([3 * MIB, 100, 200, 9 * MIB, 300])))
    plan = allocate_plan(model.made, range(5))
    device = Device(plan, [0] * len(plan.allocations))
    mine = model.extents.of_tensors(range(5))
    reads = model.read_plan(mine, op_mib=1)
    order = np.random.default_rng(5).permutation(len(reads.ops))
    assert order.tolist() != sorted(order)
    reads = ReadPlan(np.ascontiguousarray(reads.ops[order]), reads.blocks, reads.block_ids)
    found = plan_all(model, reads, mine, *device.where(model.extents, mine))
    carry_out(model, device, reads, *found)
    assert_filled(model, device)


def test_one_tensor_goes_to_two_places_if_it_is_asked_for_twice() -> None:
    model = Model(make_index(sized([2 * MIB + 7, 50])))
    mine = np.array([0, 0, 1])
    twice = make_index(sized([2 * MIB + 7, 2 * MIB + 7, 50]))
    device = Device(allocate_plan(twice, range(3)), [0, 0, 0])
    addresses = np.array(device.bases, np.int64)
    room = np.array(device.plan.allocations, np.int64)
    reads = model.read_plan(mine)
    found = plan_all(model, reads, mine, addresses, room)
    carry_out(model, device, reads, *found)
    assert np.array_equal(device.memory[0], model.content(0))
    assert np.array_equal(device.memory[1], model.content(0))
    assert np.array_equal(device.memory[2][:50], model.content(1))
    assert all((writes[:50] == 1).all() for writes in device.writes)


@pytest.mark.parametrize("alignment", [4096, 16 << 10, 2 * MIB])
@pytest.mark.parametrize("seed", range(12))
def test_every_byte_is_copied_once(seed: int, alignment: int) -> None:
    rng = random.Random(seed)
    sizes = [int(10 ** rng.uniform(0, 6.3)) * rng.choice([0, 1, 1, 1]) for _ in range(20)]
    # Some tensors are too large for a partition: they have several extents.
    limit = alignment + 2 * max(alignment, MIB)
    model = Model(make_index(sized(sizes), alignment=alignment, partition_nbytes=limit), seed)
    positions = sorted(rng.sample(range(len(sizes)), rng.randint(1, len(sizes))))
    plan = examine_allocations(model.made, positions)
    device = Device(plan, [rng.choice([0, 0, 512, 4096, MIB]) for _ in plan.allocations])
    mine = model.extents.of_tensors(positions)
    reads = model.read_plan(mine, op_mib=rng.choice([1, 4, 7]))
    if seed % 2:
        reads = reads.cut(np.array([rng.random() < 0.3 for _ in range(len(reads.blocks))], bool))
    found = plan_all(model, reads, mine, *device.where(model.extents, mine))
    carry_out(model, device, reads, *found)
    assert_filled(model, device)


def test_tensors_of_several_extents_are_among_those() -> None:
    made = make_index(sized([5 * MIB + 3]), partition_nbytes=2 * 4096 + 2 * MIB)
    assert len(made.tensors[0].extents) == 3
    model = Model(made)
    device = Device(allocate_plan(made, [0]), [0])
    mine = model.extents.of_tensors([0])
    reads = model.read_plan(mine)
    found = plan_all(model, reads, mine, *device.where(model.extents, mine))
    carry_out(model, device, reads, *found)
    assert_filled(model, device)
