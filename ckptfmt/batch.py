"""Many conversions on this machine: some at a time, each in a process, within a budget."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Protocol

from ckptfmt.batch_job import empty_result, ended
from ckptfmt.batch_process import JobProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.batch_report import ReportFile, Result
    from ckptfmt.budget import Budget
    from ckptfmt.manifest import Item

#: How often the table is drawn anew.
TICK_S = 0.2
#: How long jobs may take to stop cleanly before they are killed; both can be resumed.
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A job under way, as a table shows it."""

    item: Item
    state: str
    done: int
    total: int
    seconds: float


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of being torn away by them in the middle of anything."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.count += 1

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Listener(Protocol):
    """Who is told how it goes."""

    def show(self, running: Sequence[Running]) -> None:
        """Several times a second."""
        ...

    def end(self, result: Result) -> None:
        """An item has ended."""
        ...


class Ledger:
    """Items that wait, and what became of the others.

    Parameters
    ----------
    items : sequence of Item
        Begun in this order.
    folder : str
        Where relative sources begin.
    verify : bool
        Whether all bytes are checked, of what is there and of what is made.
    report : ReportFile
        Gets each result as it comes.
    listener : Listener
        Is told.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        folder: str,
        verify: bool,
        report: ReportFile,
        listener: Listener,
    ) -> None:
        self.folder = folder
        self.verify = verify
        self.report = report
        self.listener = listener
        self.results: list[Result] = []
        self.waiting = deque(items)

    def note(self, result: Result) -> None:
        """An item has ended."""
        self.results.append(result)
        self.report.add(result)
        self.listener.end(result)

    def give_up(self) -> None:
        """Those that wait are not begun any more."""
        while self.waiting:
            self.note(ended(empty_result(self.waiting.popleft()), 0.0))


class Batch:
    """Runs items on this machine.

    Parameters
    ----------
    ledger : Ledger
        The items.
    jobs : int
        At a time, at most.
    budget : Budget
        What they may take together.
    """

    def __init__(self, ledger: Ledger, *, jobs: int, budget: Budget) -> None:
        self.ledger = ledger
        self.jobs = jobs
        self.budget = budget
        self._running: list[JobProcess] = []

    def run(self) -> list[Result]:
        """Until all have ended.

        Raises
        ------
        KeyboardInterrupt
            After all jobs have stopped; the ledger has what became of each item.
        """
        ledger = self.ledger
        with Interrupts() as interrupts:
            try:
                while (ledger.waiting or self._running) and not interrupts.count:
                    while ledger.waiting and len(self._running) < self.jobs:
                        item = ledger.waiting.popleft()
                        self._running.append(JobProcess(item, ledger.folder, ledger.verify))
                    self._admit()
                    self._listen(TICK_S)
            finally:
                self._stop(interrupts)
            if interrupts.count:
                raise KeyboardInterrupt
        return ledger.results

    def _admit(self) -> None:
        """Let jobs begin that fit, in order: one that has to wait is not overtaken for ever."""
        for job in self._running:
            if job.begun or job.need is None:
                continue
            others = [j for j in self._running if j.begun]
            needs = [j.need for j in others if j.need is not None]
            reason = self.budget.refusal(job.need, needs)
            if reason:
                job.refuse(reason, "a larger budget, or fewer workers, or run it alone")
            elif self.budget.admits(job.need, needs, _room_nbytes(job, others)):
                job.begin()
            else:
                return

    def _listen(self, timeout_s: float) -> None:
        """Take what jobs say, for a tick at most; drop those that have ended."""
        talking = [job for job in self._running if job.result is None]
        connection.wait([job.connection for job in talking], timeout_s)
        for job in talking:
            job.listen()
        for job in [job for job in self._running if job.result is not None]:
            self._running.remove(job)
            if job.result is not None:
                if job.result.outcome == "done" and job.need is not None:
                    self.budget.written_nbytes += job.need.disk_nbytes
                self.ledger.note(job.result)
        now = time.monotonic()
        self.ledger.listener.show([
            Running(job.item, job.state, job.done, job.total, now - job.since)
            for job in self._running
        ])  # fmt: skip

    def _stop(self, interrupts: Interrupts) -> None:
        """Ask all to end and wait for them; on a second Ctrl-C, or after a time, kill them."""
        for job in self._running:
            job.stop()
        deadline = time.monotonic() + STOP_S
        while self._running:
            if interrupts.count > 1 or time.monotonic() > deadline:
                for job in self._running:
                    job.kill()
            self._listen(TICK_S)
        self.ledger.give_up()


def _room_nbytes(job: JobProcess, others: Sequence[JobProcess]) -> int:
    """What the target's disk has free for a job, without what others on it have yet to write."""
    try:
        parent = os.path.dirname(job.item.target)
        free, device = os.statvfs(parent), os.stat(parent).st_dev
        room = free.f_bavail * free.f_frsize + _written_nbytes(job)
        for other in others:
            if other.need and os.stat(os.path.dirname(other.item.target)).st_dev == device:
                room -= max(0, other.need.disk_nbytes - _written_nbytes(other))
    except OSError:
        return 1 << 62  # the job itself says what is wrong there
    return room


def _written_nbytes(job: JobProcess) -> int:
    """What a job has on its disk so far, space taken beforehand included."""
    try:
        with os.scandir(job.item.target + ".partial") as entries:
            return sum(e.stat(follow_symlinks=False).st_blocks * 512 for e in entries)
    except OSError:
        return 0
