"""Carry out a read plan: choose how to read, run the workers, raise the first failure."""

from __future__ import annotations

import errno
import os
import time
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import _core, strategy
from ckptfmt.errors import ChecksumError, CkptError, CleanupWarning, FileError, FormatError
from ckptfmt.stats import FileStrategy, LoadStats
from ckptfmt.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition
    from ckptfmt.read_plan import ReadPlan

    #: Called from the calling thread with bytes done and bytes in all.
    Progress = Callable[[int, int], None]

#: Reading threads at most; more only share the disk's and the memory's bandwidth.
MAX_THREADS = 4


@cache
def io_uring_errno() -> int:
    """0 if this process may use io_uring, else the errno that says why not. Asked once."""
    return _core.io_uring_errno()


def choose_io(options: LoadOptions) -> tuple[str, str]:
    """The I/O table to use, and why it is not io_uring if that was wanted."""
    if options.io == "pread":
        return "pread", "asked for"
    code = io_uring_errno()
    if code == 0:
        return "io_uring", ""
    reason = f"io_uring: {os.strerror(code)}"
    if options.io == "io_uring":
        raise FileError(
            code, "cannot be set up", "io_uring",
            hint="containers often forbid it; io=auto or CKPTFMT_IO=auto uses pread then",
        )  # fmt: skip
    return "pread", reason


@dataclass(slots=True)
class Scan:
    """What a scan found: for each block its checksum, and whether other than zeros follow it."""

    found: npt.NDArray[np.uint32]
    dirty: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, plan: ReadPlan) -> Scan:
        """Room for a plan's blocks."""
        return cls(np.zeros(len(plan.blocks), np.uint32), np.zeros(len(plan.blocks), np.uint8))


@dataclass(slots=True)
class Reading:
    """One plan with everything it needs to run.

    Attributes
    ----------
    plan : ReadPlan
        Its ``address`` column holds true addresses, unless `scan` is given.
    partitions : sequence of Partition
        The open files.
    options : LoadOptions
        How to read.
    verify : bool
        Compare checksums as bytes land.
    describe : callable
        Block number to (first tensor name, partition, offset, nbytes), for errors.
    keep : object
        The destination's owner. It is leaked if reads into it cannot be waited for.
    scan : Scan or None
        Read into scratch memory and collect checksums instead of landing bytes.
    """

    plan: ReadPlan
    partitions: Sequence[Partition]
    options: LoadOptions
    verify: bool
    describe: Callable[[int], tuple[str, Partition, int, int]]
    keep: object = None
    scan: Scan | None = None

    def run(
        self, progress: Progress | None = None, meanwhile: Callable[[], None] | None = None
    ) -> LoadStats:
        """Read everything, or raise; either way nothing is in flight afterwards.

        What need not wait for the bytes is done in `meanwhile`, while others read.
        """
        began = time.perf_counter()
        total = self.plan.nbytes
        if not len(self.plan.ops):
            if meanwhile is not None:
                meanwhile()
            return LoadStats(engine="none: nothing to read")
        io, reason = choose_io(self.options)
        plan, direct, files = self._choose_reads()
        # The engine takes direct ops from the front and buffered ones from behind them.
        order = np.argsort(~direct, kind="stable")
        ops = np.ascontiguousarray(plan.ops[order])
        n_direct = int(direct.sum())
        if n_direct == 0:
            io, reason = "pread", "nothing to read directly" if io == "io_uring" else reason
        threads = self._threads(io, n_direct, len(ops))
        slot_nbytes = int(ops["nbytes"].max() + 4095) // 4096 * 4096
        engine = _core.Engine(
            _bytes(ops), _bytes(plan.blocks),
            _bytes(np.array([p.direct_fd for p in self.partitions], np.int32)),
            _bytes(np.array([p.fd for p in self.partitions], np.int32)),
            n_direct=n_direct, io=io, depth=self.options.depth, workers=threads,
            verify=self.verify or self.scan is not None,
            found=_bytes(self.scan.found) if self.scan else None,
            dirty=_bytes(self.scan.dirty) if self.scan else None,
            slot_nbytes=slot_nbytes if self.scan else 0,
        )  # fmt: skip
        try:
            run_workers(
                engine.work, threads, name="ckptfmt", stop=engine.stop, meanwhile=meanwhile,
                tick=None if progress is None else lambda: progress(engine.done_nbytes, total),
            )  # fmt: skip
        finally:
            if engine.undrained:
                _LEAKED.append((engine, self.keep))
                warnings.warn(
                    f"reads of {total} bytes cannot be waited for; their memory is never freed",
                    CleanupWarning, stacklevel=2,
                )  # fmt: skip
        if engine.failure is not None:
            raise self._error(ops, engine.failure)
        if engine.ring_errno:
            reason = f"io_uring: {os.strerror(engine.ring_errno)}"
            if engine.without_ring == threads:
                io = "pread"
            else:
                reason += f", for {engine.without_ring} of {threads} workers"
        seconds = engine.seconds
        return LoadStats(
            read_nbytes=total,
            verified_nbytes=int(plan.blocks["nbytes"].sum(dtype=np.int64)) if self.verify else 0,
            seconds=time.perf_counter() - began,
            engine=io,
            engine_reason=reason,
            threads=threads,
            depth=self.options.depth if io == "io_uring" else 1,
            op_nbytes=self.options.op_nbytes,
            files=files,
            disk_wait_seconds=seconds["disk_wait"] / threads,
            buffered_read_seconds=seconds["buffered_read"] / threads,
            checksum_seconds=seconds["checksum"] / threads,
            peak_pool_nbytes=engine.scratch_nbytes,
        )

    def _choose_reads(self) -> tuple[ReadPlan, npt.NDArray[np.bool_], dict[str, FileStrategy]]:
        """The plan, cut where the way of reading changes within an op, and which ops go direct."""
        plan, reasons = self.plan, {}
        file_of_block = plan.ops["file"][plan.op_of_block]
        by_block = np.zeros(len(plan.blocks), bool)
        for number in np.unique(plan.ops["file"]).tolist():
            by_block[file_of_block == number], reasons[number] = strategy.choose(
                self.partitions[number], plan.ops[plan.ops["file"] == number], plan.blocks,
                self.options,
            )  # fmt: skip
        changes = np.diff(by_block, prepend=by_block[:1])
        if changes.any():
            plan = plan.cut(changes)
        direct = by_block[plan.ops["first_block"]]
        files = {}
        for number, reason in reasons.items():
            mine = plan.ops["file"] == number
            nbytes = plan.ops["nbytes"]
            files[os.path.basename(self.partitions[number].path)] = FileStrategy(
                direct_nbytes=int(nbytes[mine & direct].sum()),
                buffered_nbytes=int(nbytes[mine & ~direct].sum()),
                reason=reason,
            )
        return plan, direct, files

    def _threads(self, io: str, n_direct: int, n_ops: int) -> int:
        """As many as there are processors, up to four.

        Direct reads by pread are the exception: each holds its thread, so the queue is as deep as
        there are threads.
        """
        if self.options.threads:
            return min(self.options.threads, n_ops)
        if io == "pread" and n_direct:
            return min(MAX_THREADS, n_ops)
        return min(MAX_THREADS, len(os.sched_getaffinity(0)), n_ops)

    def _error(
        self, ops: npt.NDArray[np.void], failure: tuple[str, int, int, int]
    ) -> CkptError:
        kind, op, code, block = failure
        partition = self.partitions[int(ops[op]["file"])]
        first = int(ops[op]["offset"])
        span = f"bytes {first}..{first + int(ops[op]['nbytes'])}"
        if kind == "read":
            return FileError(
                code, f"{span} cannot be read", partition.path,
                hint="see the kernel's log (dmesg) for the device's error"
                if code == errno.EIO else None,
            )  # fmt: skip
        if kind == "end":
            return FormatError(
                f"{partition.path}: the file ended while {span} were read; "
                f"it had {partition.file_nbytes} bytes when it was opened",
                hint="something cut the file short: copy it again",
            )
        return self.checksum_error(int(self.plan.block_ids[block]), code)

    def checksum_error(self, block_id: int, found: int) -> ChecksumError:
        """The error for a block whose bytes gave the checksum `found`."""
        tensor, partition, offset, nbytes = self.describe(block_id)
        return ChecksumError(
            f"{partition.path}: tensor {tensor!r}, bytes {offset}..{offset + nbytes} of the file: "
            f"checksum {found:08x} is not the one stored",
            tensor=tensor, partition=partition.path, offset=offset, nbytes=nbytes,
            hint="the bytes on the disk are damaged: copy the file again or convert again; "
            "ckptfmt verify lists all damage",
        )  # fmt: skip


#: Memory that a broken ring may still write to. A leak is better than a stray write.
_LEAKED: list[object] = []


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return array.view(np.uint8).data if len(array) else memoryview(bytearray())
