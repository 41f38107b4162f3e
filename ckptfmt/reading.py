"""A read plan with everything it needs to be carried out, and what its failures mean."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ckptfmt import strategy, telemetry
from ckptfmt.device_errors import device_error
from ckptfmt.errors import ChecksumError, CkptError, FileError, FormatError
from ckptfmt.input_file import SECTOR
from ckptfmt.stats import FileStrategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckptfmt._core import CuFile
    from ckptfmt.options import LoadOptions
    from ckptfmt.partitions import Partition
    from ckptfmt.read_plan import ReadPlan
    from ckptfmt.trace import Trace

#: Reading threads at most; more only share the disk's and the memory's bandwidth.
MAX_THREADS = 4
#: Direct reads of less are not worth a place of their own, if they cannot go where they belong.
BOUNCED_NBYTES = 64 << 10
#: Threads at most that take cached bytes to one GPU: PCIe 5 has room for what some ten processors
#: copy and sum up.
MAX_SENDING_THREADS = 16


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
class Transfer:
    """What follows the reads of a plan whose bytes go on to a device.

    Attributes
    ----------
    kind : str
        ``npu`` or ``cuda``.
    device : int
        The device's number.
    copies : callable
        Given the plan as it will be read, its copies (``device_plan.COPY_DTYPE``) and where those
        of each op begin.
    pool, bounce : int
        Addresses of `pool_nbytes` that copies come from and, where direct reads cannot go there, of
        as many that they go to; else 0.
    after : int
        The device's event that copies wait for.
    copy_now : bool
        Wait for each copy.
    abandon : callable
        Called if copies cannot be waited for: the pool must never be released then.
    sharing : int
        Transfers that run at the same time.
    """

    kind: Literal["npu", "cuda"]
    device: int
    copies: Callable[[ReadPlan], tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]]
    pool: int
    pool_nbytes: int
    after: int
    abandon: Callable[[], None]
    bounce: int = 0
    copy_now: bool = False
    sharing: int = 1


@dataclass(slots=True)
class Reading:
    """One plan with everything it needs to run.

    Attributes
    ----------
    plan : ReadPlan
        Its ``address`` column holds true addresses, unless `scan` or `transfer` is given.
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
    transfer : Transfer or None
        Read into slots and copy from there to a device.
    drop_behind : sequence of bool
        For each partition: leave nothing in the page cache of what was read through it.
    device : str
        Where the bytes end up, for statistics and traces.
    cufile : CuFile or None
        Read straight into the memory of the GPU `number`.
    trace : list or None
        One :class:`Trace` is added of what the workers did.
    """

    plan: ReadPlan
    partitions: Sequence[Partition]
    options: LoadOptions
    verify: bool
    describe: Callable[[int], tuple[str, Partition, int, int]]
    keep: object = None
    scan: Scan | None = None
    transfer: Transfer | None = None
    drop_behind: Sequence[bool] = ()
    device: str = "cpu"
    trace: list[Trace] | None = None
    cufile: CuFile | None = None
    number: int = 0

    def choose_reads(self) -> tuple[ReadPlan, npt.NDArray[np.bool_], dict[str, FileStrategy]]:
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
        askew = direct & (plan.ops["offset"] % SECTOR != 0)
        bounced = direct & ~askew & self.off_sectors(plan.ops)
        small = bounced & (plan.ops["nbytes"] < BOUNCED_NBYTES)
        direct &= ~(askew | small)
        bounced &= ~small
        files = {}
        for number, reason in reasons.items():
            mine = plan.ops["file"] == number
            nbytes = plan.ops["nbytes"]
            more = "".join(
                f"; {count} {what}"
                for one, what in (
                    (askew, "start on no sector and go through the cache"),
                    (small, "are small, for memory on no sector, and go through the cache"),
                    (bounced, "are copied to where they stay, which starts on no sector"),
                )
                if (count := int((mine & one).sum()))
            )
            files[os.path.basename(self.partitions[number].path)] = FileStrategy(
                direct_nbytes=int(nbytes[mine & direct].sum()),
                buffered_nbytes=int(nbytes[mine & ~direct].sum()),
                reason=reason + more,
            )
            self._tell(self.partitions[number], reason)
        return plan, direct, files

    def off_sectors(self, ops: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """Which ops are for memory that direct reads cannot go to."""
        if self.transfer is not None or self.scan is not None:
            return np.zeros(len(ops), bool)
        return np.asarray(ops["address"] % SECTOR != 0)

    def _tell(self, partition: Partition, reason: str) -> None:
        """How one file is read; once for its folder, if direct reads cannot be had."""
        telemetry.log.debug("%s: %s", partition.path, reason)
        if reason == partition.no_direct_reason and reason and self.options.reads == "direct":
            folder = os.path.dirname(partition.path)
            telemetry.warn_once(f"{folder}: read through the page cache, not directly: {reason}")

    def threads(self, io: str, sizes: npt.NDArray[np.int64], n_direct: int) -> int:
        """As many as there are processors, up to four.

        Direct reads by pread are an exception: each holds its thread, so the queue is as deep as
        there are threads; and so does a copy that is waited for. Another is what the page cache has
        for a GPU.

        Parameters
        ----------
        io : str
            ``io_uring`` or ``pread``.
        sizes : int64 array
            Bytes of each op.
        n_direct : int
            How many of the first are read directly.
        """
        if self.options.threads:
            return min(self.options.threads, len(sizes))
        processors = len(os.sched_getaffinity(0))
        waits = self.transfer is not None and self.transfer.copy_now
        few = MAX_THREADS if waits or (io == "pread" and n_direct) else min(MAX_THREADS, processors)
        many = 0
        is_cached = 2 * int(sizes[:n_direct].sum()) <= int(sizes.sum())
        if is_cached and self.transfer is not None and self.transfer.kind == "cuda" and not waits:
            many = min(MAX_SENDING_THREADS, processors // self.transfer.sharing)
        return min(max(few, many), len(sizes))

    def error(
        self,
        ops: npt.NDArray[np.void],
        failure: tuple[str, int, int, int],
        device_fault: tuple[str, int, str],
    ) -> CkptError:
        kind, op, code, block = failure
        if kind == "device":
            return device_error(*device_fault)
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
