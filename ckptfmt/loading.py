"""Loads into CPU memory: one mapping laid out as the partitions are, a region for each tensor."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import engine, layout, telemetry, tensors
from ckptfmt._core import Memory, Region
from ckptfmt.errors import OutOfMemoryError
from ckptfmt.read_plan import plan_reach
from ckptfmt.reading import Reading, Scan
from ckptfmt.regrouped import GatheredFiles
from ckptfmt.stats import FileStrategy, LoadStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckptfmt.checkpoint_files import TensorFiles
    from ckptfmt.devices import Devices
    from ckptfmt.engine import Progress
    from ckptfmt.extents import Reach
    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition
    from ckptfmt.read_plan import ReadPlan
    from ckptfmt.trace import Trace


#: Memory from here on is slow to come by in pages of 4 KiB.
FEW_PAGES_NBYTES = 64 << 20


@dataclass(slots=True)
class Request:
    """What to load, and how.

    Attributes
    ----------
    files : TensorFiles
        Where from; held open by the caller.
    chosen : dict of str to int
        Names, and the position of the tensor each means.
    devices : Devices, optional
        Where to; the CPU if not given.
    traces : list of Trace, optional
        What workers do is added to it.
    """

    files: TensorFiles
    chosen: dict[str, int]
    options: LoadOptions
    verify: bool
    framework: str
    progress: Progress | None
    devices: Devices | None = None
    traces: list[Trace] | None = None

    @property
    def unique(self) -> list[int]:
        """Positions of the chosen tensors, tied ones once, ascending."""
        return sorted(set(self.chosen.values()))

    def reading(self, plan: ReadPlan, keep: object = None, scan: Scan | None = None) -> Reading:
        """A plan of this request, ready to run."""
        return Reading(
            plan, self.files.partitions, self.options, self.verify,
            describer(self.files), keep, scan, trace=self.traces,
        )  # fmt: skip


def describer(files: TensorFiles) -> Callable[[int], tuple[str, Partition, int, int]]:
    """A function from a block's number to what a person needs to know of it."""
    files = files.stored

    def describe(block: int) -> tuple[str, Partition, int, int]:
        extents = files.extents
        i = int(np.searchsorted(extents.first_block, block, side="right")) - 1
        at = (block - int(extents.first_block[i])) * layout.BLOCK_NBYTES
        nbytes = min(layout.BLOCK_NBYTES, int(extents.nbytes[i]) - at)
        name = files.index.tensors[int(extents.tensor[i])].name
        partition = files.partitions[int(extents.partition[i])]
        return name, partition, int(extents.offset[i]) + at, nbytes

    return describe


def read_regions(request: Request) -> tuple[dict[int, Region | None], LoadStats]:
    """Read the chosen tensors into a mapping of their own; a region for each position."""
    return _read_positions(request, request.unique)


def _read_positions(
    request: Request,
    positions: Sequence[int],
    meanwhile: Callable[[dict[int, Region | None]], None] = lambda regions: None,
) -> tuple[dict[int, Region | None], LoadStats]:
    """As `read_regions`; `meanwhile` is given the regions while they are being filled."""
    files = request.files
    if isinstance(files, GatheredFiles):
        return _put_together(request, files, positions, meanwhile)
    extents = files.extents
    mine = extents.of_tensors(positions)
    regions: dict[int, Region | None] = dict.fromkeys(positions)
    if not len(mine):
        meanwhile(regions)
        return regions, LoadStats(engine="none: nothing to read")
    with telemetry.span("plan"):
        reach = extents.reach(mine)
        memory = allocate(reach.nbytes)
        plan = plan_reach(reach, memory.address, files.crcs, op_nbytes=request.options.op_nbytes)
        _cut_regions(regions, memory, extents.tensor[mine], reach, extents.nbytes[mine])
        spare = [memory.region(start, nbytes, nbytes) for start, nbytes in reach.spare.tolist()]
    reading = request.reading(plan, memory)
    stats = engine.run(reading, request.progress, lambda: meanwhile(regions))
    spare.clear()  # it has been verified, and goes back to the system
    return regions, replace(stats, huge_pages=memory.huge_pages)


def _put_together(
    request: Request,
    files: GatheredFiles,
    positions: Sequence[int],
    meanwhile: Callable[[dict[int, Region | None]], None],
) -> tuple[dict[int, Region | None], LoadStats]:
    """As `_read_positions`, of tensors that do not stand in the files as they are."""
    sizes = {p: nbytes for p in positions if (nbytes := files.index.tensors[p].nbytes)}
    regions: dict[int, Region | None] = dict.fromkeys(positions)
    if not sizes:
        meanwhile(regions)
        return regions, LoadStats(engine="none: nothing to read")
    spans = [layout.align_up(nbytes, layout.MIN_ALIGNMENT) for nbytes in sizes.values()]
    memory, offset = allocate(sum(spans)), 0
    buffers = {}
    for (position, nbytes), span in zip(sizes.items(), spans, strict=True):
        region = regions[position] = memory.region(offset, nbytes, span)
        buffers[position] = memoryview(region)
        offset += span
    meanwhile(regions)
    read, threads = files.fill(buffers, request.progress)
    return regions, LoadStats(
        read_nbytes=read, verified_nbytes=read, engine="pread", threads=threads, depth=1,
        engine_reason="put together of pieces for another number of ranks",
        huge_pages=memory.huge_pages, staging="none: pieces put together",
    )  # fmt: skip


def _cut_regions(
    regions: dict[int, Region | None],
    memory: Memory,
    tensor: npt.NDArray[np.int64],
    reach: Reach,
    nbytes: npt.NDArray[np.int64],
) -> None:
    """One region for each tensor; the extents of a large one stand next to each other."""
    first = np.flatnonzero(np.diff(tensor, prepend=-1))
    starts = reach.at[first]
    spans = np.add.reduceat(reach.span, first)
    sizes = np.add.reduceat(nbytes, first)
    for position, start, size, span in zip(
        tensor[first].tolist(), starts.tolist(), sizes.tolist(), spans.tolist(), strict=True
    ):
        regions[position] = memory.region(start, size, span)


def allocate(nbytes: int) -> Memory:
    """Memory for tensors, or an error that says how much was wanted."""
    try:
        memory = Memory(nbytes)
    except MemoryError as error:
        raise OutOfMemoryError(
            str(error), hint="load by names, use stream(), or mmap=True"
        ) from error
    if not memory.huge_pages and nbytes >= FEW_PAGES_NBYTES:
        telemetry.warn_once("the system gives no huge pages: memory for tensors comes slower")
    return memory


def assemble(request: Request, regions: dict[int, Region | None]) -> dict[str, Any]:
    """Tensors by name; tied names share memory."""
    make = tensors.maker(request.framework)
    entries = request.files.index.tensors
    made: dict[int, Any] = {}
    found: dict[str, Any] = {}
    for name, position in request.chosen.items():
        if position in made:
            found[name] = tensors.alias(made[position])
        else:
            found[name] = made[position] = make(entries[position], regions.pop(position))
    return found


def read_tensors(request: Request) -> tuple[dict[str, Any], LoadStats]:
    """Load by reading."""
    entries = request.files.index.tensors
    tensors.check_framework(request.framework, [entries[p] for p in request.unique])
    began = time.perf_counter()
    found: dict[str, Any] = {}
    # Nobody sees the tensors before their bytes have come and are verified; 3,000 take some 20 ms.
    _, stats = _read_positions(
        request, request.unique, lambda regions: found.update(assemble(request, regions))
    )
    return found, replace(stats, seconds=time.perf_counter() - began)


def map_tensors(request: Request) -> tuple[dict[str, Any], LoadStats]:
    """Load by mapping; a tensor that spans partitions, or stands askew, is read instead."""
    files = request.files
    entries = files.index.tensors
    tensors.check_framework(request.framework, [entries[p] for p in request.unique])
    began = time.perf_counter()
    odd = files.extents.odd
    spanning = [p for p in request.unique if len(entries[p].extents) > 1 or p in odd]
    regions, stats = _read_positions(request, spanning)
    ways = dict(stats.files)
    maps: dict[int, Memory] = {}
    first = np.searchsorted(files.extents.tensor, request.unique)
    for position, row in zip(request.unique, first.tolist(), strict=True):
        if len(entries[position].extents) != 1 or position in odd:
            regions.setdefault(position, None)
            continue
        extent = entries[position].extents[0]
        partition = files.partitions[extent.partition]
        memory = maps.get(extent.partition)
        if memory is None:
            memory = maps[extent.partition] = Memory(partition.file_nbytes, fd=partition.fd)
        span = int(files.extents.span[row])
        regions[position] = memory.region(extent.offset, extent.nbytes, span)
        name = os.path.basename(partition.path)
        before = ways.get(name, FileStrategy(reason="mapped"))
        ways[name] = replace(before, mapped_nbytes=before.mapped_nbytes + extent.nbytes)
    if request.verify:
        mapped = replace(stats, files=ways)
        rest = replace(request, progress=_after(stats.read_nbytes, request.progress))
        with telemetry.span("verify"):
            stats = mapped.plus(
                verify_chosen(rest, [p for p in request.unique if p not in set(spanning)])
            )
        ways = dict(stats.files)
    found = assemble(request, regions)
    if request.progress is not None:
        request.progress(stats.read_nbytes, stats.read_nbytes)
    ran = f"mmap, verified by {stats.engine}" if request.verify else "mmap"
    return found, replace(
        stats, engine=ran, files=ways, seconds=time.perf_counter() - began,
        staging="none: mapped",
    )  # fmt: skip


def _after(nbytes: int, progress: Progress | None) -> Progress | None:
    """Progress of a second step: what the first has read stays read."""
    if progress is None:
        return None
    return lambda done, total: progress(nbytes + done, nbytes + total)


def verify_chosen(request: Request, positions: Sequence[int]) -> LoadStats:
    """Read some tensors only to compare their checksums, or raise for the first that differs."""
    extents = request.files.extents
    reach = extents.reach(extents.of_tensors(positions))
    plan = plan_reach(reach, 0, request.files.crcs, op_nbytes=request.options.op_nbytes)
    scan = Scan.of(plan)
    reading = request.reading(plan, scan=scan)
    stats = engine.run(reading, request.progress)
    wrong = np.flatnonzero(scan.found != plan.blocks["crc"])
    if len(wrong):
        first = int(wrong[0])
        raise reading.checksum_error(int(plan.block_ids[first]), int(scan.found[first]))
    return stats
