"""Carry out readings: run their workers, watch them, raise the first failure."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import _core, telemetry
from ckptfmt.device_errors import device_error
from ckptfmt.errors import CleanupWarning, FileError
from ckptfmt.input_file import SECTOR
from ckptfmt.stats import LoadStats
from ckptfmt.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckptfmt.options import LoadOptions
    from ckptfmt.reading import Reading
    from ckptfmt.trace import Trace

    #: Called from the calling thread with bytes done and bytes in all.
    Progress = Callable[[int, int], None]

#: Bytes of ``trace.TRACE_DTYPE``, of which there are a few for each op.
EVENT_NBYTES = 40


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


class _Running:
    """A reading under way: its engine, and how many threads it wants."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.began = time.perf_counter()
        options, transfer, scan = reading.options, reading.transfer, reading.scan
        io, reason = choose_io(options)
        plan, direct, self.files = reading.choose_reads()
        self.plan = plan
        # The engine takes direct ops from the front and buffered ones from behind them.
        order = np.argsort(~direct, kind="stable")
        self.ops = ops = np.ascontiguousarray(plan.ops[order])
        n_direct = int(direct.sum())
        if n_direct == 0:
            io, reason = "pread", "nothing to read directly" if io == "io_uring" else reason
        elif io == "pread" and options.io == "auto":
            telemetry.warn_once(f"direct reads are made by pread, a thread for each: {reason}")
        self.io, self.io_reason = io, reason
        self.threads = reading.threads(io, ops["nbytes"], n_direct)
        self.depth = options.depth if io == "io_uring" else 1
        slot_nbytes = int(ops["nbytes"].max() + SECTOR - 1) // SECTOR * SECTOR
        bounced = bool(reading.off_sectors(ops[:n_direct]).any())
        if transfer is not None:
            fitting = transfer.pool_nbytes // slot_nbytes
            self.threads = max(1, min(self.threads, fitting))
            n_slots = max(1, min(fitting // self.threads, slots_of(self.depth)))
            self.depth = min(self.depth, n_slots)
        telemetry.log.debug(
            "%d reads for %s, %d of them direct: %s%s, threads %d, in flight for each %d",
            len(ops), reading.device, n_direct, io, reason and f" ({reason})", self.threads,
            self.depth,
        )  # fmt: skip
        self.events = (
            np.zeros((4 * len(ops) + 2 * len(plan.blocks)) * EVENT_NBYTES, np.uint8)
            if reading.trace is not None else None
        )  # fmt: skip
        self.engine = _core.Engine(
            _bytes(ops), _bytes(plan.blocks),
            _bytes(np.array([p.direct_fd for p in reading.partitions], np.int32)),
            _bytes(np.array([p.fd for p in reading.partitions], np.int32)),
            n_direct=n_direct, io=io, depth=self.depth, workers=self.threads,
            verify=reading.verify or scan is not None,
            found=_bytes(scan.found) if scan else None,
            dirty=_bytes(scan.dirty) if scan else None,
            slot_nbytes=slot_nbytes if scan or transfer or bounced else 0, bounced=bounced,
            drop_behind=bytes(reading.drop_behind) if any(reading.drop_behind) else None,
            events=None if self.events is None else self.events.data,
        )  # fmt: skip
        if reading.cufile is not None:
            self.engine.read_there(reading.number, reading.cufile)
        if transfer is not None:
            copies, begins = transfer.copies(replace(plan, ops=ops))
            self.engine.send_to(
                transfer.kind, transfer.device, _bytes(copies), _bytes(begins), n_slots=n_slots,
                pool=transfer.pool, bounce=transfer.bounce, after=transfer.after,
                copy_now=transfer.copy_now,
            )  # fmt: skip

    def leak(self) -> None:
        """Keep for ever what reads or copies may still use."""
        if not self.engine.undrained:
            return
        _LEAKED.append((self, self.reading.keep))
        if self.reading.transfer is not None:
            self.reading.transfer.abandon()

    def tell_leaks(self) -> None:
        """Warn of what could not be given back."""
        told = []
        if self.engine.undrained:
            nbytes = self.reading.plan.nbytes
            told.append(f"reads or copies of {nbytes} bytes cannot be waited for; "
                        "their memory is never freed")  # fmt: skip
        if self.engine.release_fault is not None:
            told.append(f"{device_error(*self.engine.release_fault)}; it is never freed")
        for text in told:
            warnings.warn(text, CleanupWarning, stacklevel=4)

    def outcome(self) -> LoadStats:
        """What was done, or the error."""
        engine, reading = self.engine, self.reading
        if engine.failure is not None:
            raise reading.error(self.ops, engine.failure, engine.device_fault)
        io, reason = self.io, self.io_reason
        if engine.ring_errno:
            reason = f"io_uring: {os.strerror(engine.ring_errno)}"
            if engine.without_ring == self.threads:
                io = "pread"
            else:
                reason += f", for {engine.without_ring} of {self.threads} workers"
            telemetry.log.warning("workers had to do without io_uring: %s", reason)
        seconds, threads = engine.seconds, self.threads
        verified = int(self.plan.blocks["nbytes"].sum(dtype=np.int64)) if reading.verify else 0
        return LoadStats(
            read_nbytes=reading.plan.nbytes,
            verified_nbytes=verified,
            seconds=time.perf_counter() - self.began,
            engine=io,
            engine_reason=reason,
            threads=threads,
            depth=self.depth,
            op_nbytes=reading.options.op_nbytes,
            files=self.files,
            disk_wait_seconds=seconds["disk_wait"] / threads,
            buffered_read_seconds=seconds["buffered_read"] / threads,
            checksum_seconds=seconds["checksum"] / threads,
            device_wait_seconds=seconds["device_wait"] / threads,
            peak_pool_nbytes=engine.scratch_nbytes,
            devices=(reading.device,),
        )


def slots_of(depth: int) -> int:
    """Slots that a worker can make use of: those being read, some more on their way to the device.

    One copy at a time is carried out; the others wait for it, so that reads may come in bursts.
    """
    return depth + 4


def run(
    reading: Reading,
    progress: Progress | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> LoadStats:
    """Read everything, or raise; either way nothing is in flight afterwards.

    What need not wait for the bytes is done in `meanwhile`, while others read.
    """
    if not len(reading.plan.ops):
        if meanwhile is not None:
            meanwhile()
        return LoadStats(engine="none: nothing to read")
    return run_together([reading], progress, meanwhile)[0]


def run_together(
    readings: Sequence[Reading],
    progress: Progress | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> list[LoadStats]:
    """Run several readings at the same time, each with threads of its own.

    Returns
    -------
    list of LoadStats
        One for each reading.

    Raises
    ------
    CkptError
        The first failure of any of them; all have stopped then.
    """
    with telemetry.span("read") as span:
        found = _run_together(readings, progress, meanwhile)
        span.tell(*found)
    return found


def _run_together(
    readings: Sequence[Reading],
    progress: Progress | None,
    meanwhile: Callable[[], None] | None,
) -> list[LoadStats]:
    running = [_Running(reading) for reading in readings]
    total = sum(reading.plan.nbytes for reading in readings)
    bodies = iter([one for one in running for _ in range(one.threads)])

    def stop() -> None:
        for one in running:
            one.engine.stop()

    def work() -> None:
        one = next(bodies)
        one.engine.work()
        if one.engine.failure is not None:
            stop()

    def tick() -> None:
        if progress is not None:
            progress(sum(one.engine.done_nbytes for one in running), total)

    try:
        run_workers(
            work, sum(one.threads for one in running), name="ckptfmt", stop=stop,
            meanwhile=meanwhile, tick=tick if progress is not None else None,
        )  # fmt: skip
    finally:
        for one in running:
            one.leak()  # all of them first: what is told next may be raised
    for one in running:
        one.tell_leaks()
        if one.reading.trace is not None:
            one.reading.trace.append(_traced(one))
    # The one that failed first stopped the others, which then have nothing to tell.
    running.sort(key=lambda one: one.engine.failure is None)
    found = {id(one.reading): one.outcome() for one in running}
    return [found[id(reading)] for reading in readings]


def _traced(one: _Running) -> Trace:
    from ckptfmt.trace import TRACE_DTYPE, Trace  # noqa: PLC0415

    assert one.events is not None
    return Trace(
        device=one.reading.device,
        events=one.events.view(TRACE_DTYPE)[: one.engine.n_events],
        files=[p.path for p in one.reading.partitions],
        ops=one.ops,
    )


#: Memory that a broken ring may still write to. A leak is better than a stray write.
_LEAKED: list[object] = []


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return array.view(np.uint8).data if len(array) else memoryview(bytearray())
