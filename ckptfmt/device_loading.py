"""Loads into device memory: torch allocates it, reads pass through a pool, copies fill it."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import device_plan, engine, loading, page_cache, staging, telemetry, tensors
from ckptfmt._core import CuFile
from ckptfmt.dtypes import DTYPES, to_torch
from ckptfmt.errors import OptionError
from ckptfmt.pool import HUGE_NBYTES, borrowed, pool_nbytes
from ckptfmt.read_plan import plan_reach, plan_read
from ckptfmt.reading import MAX_SENDING_THREADS, MAX_THREADS, Transfer
from ckptfmt.regrouped import GatheredFiles
from ckptfmt.stats import FileStrategy, LoadStats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from ckptfmt.accelerator import Accelerator
    from ckptfmt.devices import Devices
    from ckptfmt.dtypes import Dtype
    from ckptfmt.index import Index
    from ckptfmt.loading import Request
    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition
    from ckptfmt.read_plan import ReadPlan
    from ckptfmt.reading import Reading


@dataclass(slots=True)
class Destination:
    """What goes to one device, and where.

    Attributes
    ----------
    device : Accelerator
        It.
    extents : int64 array
        Positions of the extents, ascending.
    addresses, room : int64 arrays
        For each of them where it goes, and how many bytes may be written there.
    keep : object
        The owners of that memory.
    """

    device: Accelerator
    extents: npt.NDArray[np.int64]
    addresses: npt.NDArray[np.int64]
    room: npt.NDArray[np.int64]
    keep: object


def load(request: Request, devices: Devices) -> tuple[dict[str, Any], LoadStats]:
    """Load the chosen tensors to their devices.

    Returns
    -------
    tensors : dict of str to Tensor
        By name, in the order of `request`; ready for any operator. Tied names share memory.
    stats : LoadStats
        Of all devices together.
    """
    entries = request.files.index.tensors
    if request.framework != "torch":
        raise OptionError(f"framework is {request.framework!r}; devices hold torch tensors")
    tensors.check_framework(request.framework, [entries[p] for p in request.unique])
    with telemetry.span("start"):
        places = devices.place(request)
        found = {name: devices.device(name) for name in places}
    began = time.perf_counter()
    if isinstance(request.files, GatheredFiles):
        return _copied(request, devices, places)
    if request.files.partitions:
        for device in found.values():  # before the tensors: a probe needs some of the device, too
            with telemetry.span("staging", device=device.name):
                staging.choose(device, request.files.partitions, request.options)
    made: dict[int, Any] = {}
    with telemetry.span("allocate"):
        memories = [_allocate(request, found[name], mine) for name, mine in places.items()]

    def make() -> None:  # nobody sees the tensors before their bytes have landed
        for memory in memories:
            memory.make(made)

    destinations = [memory.destination for memory in memories]
    stats = read_to(request, destinations, make)
    given: set[int] = set()
    result = {}
    for name, position in request.chosen.items():
        tensor = made[position]
        result[name] = tensors.alias(tensor) if position in given else tensor
        given.add(position)
    seconds = time.perf_counter() - began
    return result, replace(
        stats, seconds=seconds, device_start_seconds=devices.start_seconds,
        devices=tuple(places),
    )  # fmt: skip


def _copied(
    request: Request, devices: Devices, places: Mapping[str, list[int]]
) -> tuple[dict[str, Any], LoadStats]:
    """Put tensors together in host memory, one after the other, and copy each to its device."""
    began = time.perf_counter()
    where = {position: name for name, mine in places.items() for position in mine}
    names = {position: name for name, position in request.chosen.items()}
    total = sum(request.files.index.tensors[p].nbytes for p in where)
    made: dict[int, Any] = {}
    read, done = LoadStats(), 0
    for position, name in names.items():
        part = replace(request, chosen={name: position}, progress=None)
        found, stats = loading.read_tensors(part)
        with devices.device(where[position]).current():
            made[position] = found[name].to(where[position])
        read, done = read.plus(stats), done + stats.read_nbytes
        if request.progress is not None:
            request.progress(min(done, total), total)
    result: dict[str, Any] = {}
    given: set[int] = set()
    for name, position in request.chosen.items():
        result[name] = tensors.alias(made[position]) if position in given else made[position]
        given.add(position)
    return result, replace(
        read, seconds=time.perf_counter() - began, devices=tuple(places),
        device_start_seconds=devices.start_seconds, staging="put together on the host, copied",
    )  # fmt: skip


@dataclass(slots=True)
class _Memory:
    """What torch has given for the tensors of one device, and the tensors to be made in it."""

    destination: Destination
    index: Index
    positions: list[int]
    allocations: list[Any]
    place: dict[int, tuple[int, int]]

    def make(self, made: dict[int, Any]) -> None:
        """Add the tensors to `made`, by position."""
        device = self.destination.device
        view = tensors.device_maker(device.name)
        with device.current():
            for position in self.positions:
                entry = self.index.tensors[position]
                data = None
                if position in self.place:
                    number, offset = self.place[position]
                    data = self.allocations[number][offset : offset + entry.nbytes]
                made[position] = view(entry, data)


def _allocate(request: Request, device: Accelerator, positions: list[int]) -> _Memory:
    """Memory for the tensors of one device."""
    index, extents = request.files.index, request.files.extents
    plan = device_plan.allocate_plan(index, positions)
    allocations = device.empties(plan.allocations)
    starts = [allocation.data_ptr() for allocation in allocations]
    place = plan.place  # made at each call
    base = {position: starts[number] + offset for position, (number, offset) in place.items()}
    room = {
        position: plan.allocations[number] - offset
        for position, (number, offset) in place.items()
    }
    mine = extents.of_tensors(positions)
    addresses, rooms = spread(extents, mine, base, room)
    destination = Destination(device, mine, addresses, rooms, allocations)
    return _Memory(destination, index, positions, allocations, place)


def spread(
    extents: Any, mine: npt.NDArray[np.int64], base: Mapping[int, int], room: Mapping[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Addresses of extents, those of one tensor one behind the other; the room from there on."""
    owner = extents.tensor[mine]
    before = np.cumsum(extents.nbytes[mine]) - extents.nbytes[mine]
    first = np.flatnonzero(np.diff(owner, prepend=-1) != 0)
    within = before - np.repeat(before[first], np.diff(first, append=len(mine)))
    owners = owner.tolist()
    return (
        np.array([base[p] for p in owners], np.int64) + within,
        np.array([room[p] for p in owners], np.int64) - within,
    )


def read_to(
    request: Request,
    destinations: Sequence[Destination],
    meanwhile: Callable[[], None] = lambda: None,
) -> LoadStats:
    """Fill all destinations at the same time, in one pass over the files.

    What need not wait for the bytes is done in `meanwhile`, while they are read.
    """
    destinations = [d for d in destinations if len(d.extents)]
    if not destinations:
        meanwhile()
        return LoadStats(engine="none: nothing to read")
    of_device = Counter(d.device.name for d in destinations)
    with ExitStack() as held:
        with telemetry.span("plan"):
            prepared = [
                _prepare(request, d, held, len(destinations), of_device[d.device.name])
                for d in destinations
            ]
        readings = [reading for reading, _, _ in prepared]
        found = engine.run_together(readings, request.progress, meanwhile)
    found = [
        _past_the_host(stats) if chosen.letter == "G" else stats
        for stats, (_, chosen, _) in zip(found, prepared, strict=True)
    ]
    parts = [
        replace(stats, staging=str(chosen), peak_pool_nbytes=nbytes, devices=(d.device.name,))
        for stats, d, (_, chosen, nbytes) in zip(found, destinations, prepared, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.beside(part)
    return total


def _prepare(
    request: Request, destination: Destination, held: ExitStack, pools: int, of_device: int
) -> tuple[Reading, staging.Staging, int]:
    """One device's reading with its staging; what it needs is released by `held`."""
    device = destination.device
    partitions = request.files.partitions
    extents, mine = request.files.extents, destination.extents
    crcs, options = request.files.crcs, request.options
    chosen = staging.choose(device, partitions, options)
    reach = extents.reach(mine, in_place=False)
    more = reach.extents.nbytes[reach.chosen].sum() > extents.nbytes[mine].sum()
    if chosen.letter == "E" and request.verify and more:
        why = "E: what is read to verify some rows has no place on the device"
        chosen = replace(chosen, letter="D", reasons=(*chosen.reasons, why))
    if chosen.letter in "EG":
        return _read_there(request, destination, held, chosen.letter), chosen, 0
    plan = plan_reach(reach, 0, crcs, op_nbytes=options.op_nbytes)
    copy_now = options.sync_copy or chosen.letter == "D"
    limit = pool_nbytes(
        options, chosen.letter, shared=device.is_shared, pools=pools, of_device=of_device
    )
    limit = min(limit, _useful(plan, options, copy_now=copy_now, kind=device.kind, pools=pools))
    pool = held.enter_context(borrowed(device, chosen.letter, limit))
    # One that was kept may be larger than what this load may have.
    usable = min(pool.nbytes, -(-limit // HUGE_NBYTES) * HUGE_NBYTES)
    after = held.enter_context(device.ordered())
    reading = request.reading(plan, (destination.keep, pool))
    reading.device = device.name
    reading.transfer = Transfer(
        kind=device.kind,
        device=device.number,
        copies=lambda final: device_plan.plan_copies(
            final, reach.at, extents.nbytes[mine], destination.addresses, destination.room
        ),
        pool=pool.address, pool_nbytes=usable, bounce=pool.bounce, after=after,
        abandon=pool.abandon,
        copy_now=copy_now,
        sharing=pools,
    )  # fmt: skip
    return reading, chosen, pool.host_nbytes


def _read_there(
    request: Request, destination: Destination, held: ExitStack, letter: str
) -> Reading:
    """Reads that go straight to where the bytes stay, by the processor or by the GPU's driver."""
    device, extents, mine = destination.device, request.files.extents, destination.extents
    partitions, options = request.files.partitions, request.options
    device.wait_for_torch()  # bytes are written at once, whatever torch has queued before
    plan = plan_read(
        extents, mine, destination.addresses, request.files.crcs, op_nbytes=options.op_nbytes,
        room=np.minimum(extents.span[mine], destination.room),
    )  # fmt: skip
    part = replace(request, options=replace(options, reads="buffered"))
    reading = part.reading(plan, destination.keep)
    reading.device, reading.number = device.name, device.number
    if letter == "G":
        if reading.verify:
            raise OptionError(
                f"{device.name}: staging G leaves no bytes to verify in host memory",
                hint="load with verify=False, or without CKPTFMT_CUDA_STAGING=G",
            )
        reading.cufile = _known_to_cufile(device, partitions, held)
        return reading
    reading.drop_behind = [page_cache.is_cold(p.fd) for p in partitions]
    for partition, cold in zip(partitions, reading.drop_behind, strict=True):
        if cold:  # in the end once more, what stood across the ends of reads
            held.callback(page_cache.drop, partition.fd)
    return reading


def _known_to_cufile(
    device: Accelerator, partitions: Sequence[Partition], held: ExitStack
) -> CuFile:
    """Files by descriptors of this load's own: libcufile takes each of them once."""
    try:
        fds = []
        for partition in partitions:
            fds.append(os.dup(partition.direct_fd))
            held.callback(os.close, fds[-1])
        with device.current():
            cufile = CuFile(fds)
    except OSError as error:
        raise OptionError(
            f"{device.name}: staging G cannot be had for {partitions[0].path}: {error}",
            hint="CKPTFMT_CUDA_STAGING=auto takes what there is",
        ) from error
    held.callback(cufile.close)
    return cufile


def _past_the_host(stats: LoadStats) -> LoadStats:
    """Statistics of GPUDirect Storage, whose reads the engine takes for its own."""
    files = {
        name: FileStrategy(direct_nbytes=file.buffered_nbytes, reason="GPUDirect Storage")
        for name, file in stats.files.items()
    }
    return replace(
        stats, engine="cuFile", engine_reason="", files=files, buffered_read_seconds=0.0,
        disk_wait_seconds=stats.buffered_read_seconds,
    )  # fmt: skip


def _useful(
    plan: ReadPlan, options: LoadOptions, *, copy_now: bool, kind: str, pools: int
) -> int:
    """A pool beyond this is never used: there are so many threads, with so many slots, at most."""
    largest = int(plan.ops["nbytes"].max()) + 4095
    ring = engine.choose_io(options)[0] == "io_uring"
    processors = len(os.sched_getaffinity(0))
    few = min(MAX_THREADS, processors) if ring and not copy_now else MAX_THREADS
    slots = (options.threads or few) * engine.slots_of(options.depth if ring else 1)
    if kind == "cuda" and not copy_now:  # more threads, if most is cached
        many = min(MAX_SENDING_THREADS, processors // pools)
        slots = max(slots, (options.threads or many) * engine.slots_of(1))
    return largest * min(len(plan.ops), slots)


def cast(
    found: dict[str, Any], row: Dtype, request: Request, devices: Devices
) -> dict[str, Any]:
    """Cast floating tensors on their devices, one at a time; tied ones stay tied."""
    torch_dtype = to_torch(row)
    done: dict[int, Any] = {}
    for name in list(found):
        position = request.chosen[name]
        entry = request.files.index.tensors[position]
        stored = DTYPES[entry.dtype]
        if not stored.is_float or stored.name == row.name:
            continue
        if position in done:
            found[name] = tensors.alias(done[position])
        else:
            nbytes = row.nbytes(entry.shape)
            with devices.device(str(found[name].device)).allocating(nbytes):
                found[name] = done[position] = found[name].to(torch_dtype)
    return found
