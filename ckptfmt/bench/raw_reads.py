"""Reads of a checkpoint's own files, going nowhere: what the disk or the page cache gives."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import engine
from ckptfmt.extents import compact_addresses
from ckptfmt.loading import allocate, describer
from ckptfmt.read_plan import ReadPlan, plan_read
from ckptfmt.reading import Reading, Scan

if TYPE_CHECKING:
    from ckptfmt._core import Memory
    from ckptfmt.checkpoint_files import OpenFiles
    from ckptfmt.options import LoadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes
    ----------
    nbytes : int
        What was read, copied or summed up.
    seconds, cpu_seconds : float
        How long it took, and how much of the processors, the system's part included.
    threads, depth : int
        As they were used.
    engine : str
        The I/O table that ran; empty if none did.
    """

    nbytes: int
    seconds: float
    cpu_seconds: float = 0.0
    threads: int = 1
    depth: int = 1
    engine: str = ""

    @property
    def gb_s(self) -> float:
        """10⁹ bytes a second."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0


class RawReads:
    """The reads of a load, by the engine, with nothing done to what they bring.

    Parameters
    ----------
    files : OpenFiles
        What to read; held open by the caller.
    nbytes : int
        How much of it at once: whole ops, each time the ones that follow.
    fresh : bool
        Read into memory that is new each time, as a load to the CPU does. Else into slots that are
        read into again and again, as a load to a device does.
    """

    def __init__(self, files: OpenFiles, nbytes: int, *, fresh: bool) -> None:
        self.files = files
        self.limit = nbytes
        self.fresh = fresh
        self._held: Memory | None = None
        self._turn = 0

    def run(self, options: LoadOptions, *, verify: bool = False) -> Sample:
        """Read in this way, once; with `verify` compare checksums, too.

        What was read into before is released only now: what a virtual machine has just freed, its
        host has not taken back yet.
        """
        extents = self.files.extents
        mine = np.arange(len(extents.tensor))
        plan = plan_read(
            extents, mine, compact_addresses(extents, mine), self.files.crcs,
            op_nbytes=options.op_nbytes,
        )  # fmt: skip
        plan = self._next(plan)
        self._held = None
        # Into slots that all share, what one worker verifies another might be reading into.
        scan = Scan.of(plan) if verify and not self.fresh else None
        if scan is None:
            self._held = self._place(plan, options)
        reading = Reading(
            plan, self.files.partitions, options, verify, describer(self.files), self._held, scan
        )
        before, began = cpu_seconds(), time.perf_counter()
        stats = engine.run(reading)
        seconds = time.perf_counter() - began
        return Sample(
            nbytes=plan.nbytes, seconds=seconds, cpu_seconds=cpu_seconds() - before,
            threads=stats.threads, depth=stats.depth, engine=stats.engine,
        )  # fmt: skip

    def _next(self, plan: ReadPlan) -> ReadPlan:
        """Ops that make so many bytes: others each time, which no cache of the disk's has."""
        n_ops = min(int(np.searchsorted(np.cumsum(plan.ops["nbytes"]), self.limit)) + 1,
                    len(plan.ops))  # fmt: skip
        first = self._turn * n_ops % (len(plan.ops) - n_ops + 1)
        self._turn += 1
        ops = plan.ops[first : first + n_ops].copy()
        begin = int(ops["first_block"][0])
        end = begin + int(ops["n_blocks"].sum())
        ops["first_block"] -= begin
        ops["address"] -= ops["address"][0]
        return ReadPlan(ops, plan.blocks[begin:end], plan.block_ids[begin:end])

    def _place(self, plan: ReadPlan, options: LoadOptions) -> Memory:
        """Give the ops addresses in memory of their own."""
        ops = plan.ops
        if self.fresh:
            end = int((ops["address"] + ops["room"]).max())
            memory = allocate(end)
            ops["address"] += memory.address
            return memory
        slot_nbytes = int(ops["room"].max() + 4095) // 4096 * 4096
        slots = max(1, min(len(ops), options.pool_nbytes // slot_nbytes))
        memory = allocate(slots * slot_nbytes)
        ops["address"] = memory.address + np.arange(len(ops)) % slots * slot_nbytes
        memory.populate(0, memory.nbytes // 4096 * 4096)
        return memory


def cpu_seconds() -> float:
    """Processor time of this process, the system's on its behalf included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
