"""A job in a process of its own: both ends. What ends it ends no other."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.reduction import DupFd
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ckptfmt.batch_job import empty_result, ended, fail, perform

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ckptfmt.batch_report import Result
    from ckptfmt.budget import Need
    from ckptfmt.manifest import Item

#: What asks a process to end.
STOPPING = {signal.SIGINT, signal.SIGTERM}
#: How long a process may take to end once it has said all.
EXIT_S = 10.0
#: Between two messages about bytes done.
PROGRESS_S = 0.1
#: Lines of a job's stderr that go into its result.
MESSAGES = 20


class JobProcess:
    """The end of the one who starts it.

    Parameters
    ----------
    item : Item
        What to do.
    folder : str
        Where relative sources begin.
    verify : bool
        Whether to check all bytes.

    Attributes
    ----------
    need : Need or None
        Once it has planned.
    begun : bool
        Whether it was told to begin.
    done, total : int
        Bytes.
    result : Result or None
        Once it has ended.
    """

    def __init__(self, item: Item, folder: str, verify: bool) -> None:
        self.item = item
        self._log = TemporaryFile()  # noqa: SIM115 - for as long as the child writes
        self.need: Need | None = None
        self.begun = False
        self.done = self.total = 0
        self.result: Result | None = None
        self.since = time.monotonic()
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_run, args=(theirs, item, folder, verify, DupFd(self._log.fileno())),
            daemon=True, name=f"ckptfmt-item-{item.number}",
        )  # fmt: skip
        # A terminal's Ctrl-C is for the one who started all this: until the child has a session of
        # its own, the signal waits. The tracker, which would let it through, is started before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            self.process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def state(self) -> str:
        """In a word, for a table."""
        if self.need is None:
            return "planning"
        if not self.begun:
            return "waiting"
        return "verifying" if self.total and self.done == self.total else "converting"

    def begin(self) -> None:
        """Let it write."""
        self.begun = True
        with suppress(OSError):  # if it is dead, `listen` finds out
            self.connection.send("go")

    def listen(self) -> None:
        """Take what it has said, or that it is dead."""
        try:
            while self.result is None and self.connection.poll():
                kind, value = self.connection.recv()
                if kind == "need":
                    self.need = value
                elif kind == "progress":
                    self.done, self.total = value
                else:
                    self._end(value)
        except (EOFError, OSError):
            self._reap()
            self._end(self._died())

    def refuse(self, reason: str, hint: str) -> None:
        """End it before it has begun."""
        self.stop()
        result = fail(empty_result(self.item), "OverBudget", reason, hint)
        self._end(ended(result, time.monotonic() - self.since))

    def stop(self) -> None:
        """Ask it to end, as by Ctrl-C; it keeps what a later run can go on with."""
        with suppress(OSError):
            self.connection.send("stop")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def _reap(self) -> None:
        """Wait for its end, which something that a library left running may keep off."""
        self.process.join(EXIT_S)
        if self.process.is_alive():
            self.kill()
            self.process.join()

    def _end(self, result: Result) -> None:
        self._reap()
        self.connection.close()
        result.messages = self._messages()
        self.result = result

    def _died(self) -> Result:
        code = self.process.exitcode or 0
        result = empty_result(self.item)
        if code < 0:
            name = signal.Signals(-code).name
            hint = "SIGKILL often means that memory ran out: fewer --jobs, or less --memory"
            fail(result, "killed", f"its process was ended by {name}",
                 hint if -code == signal.SIGKILL else None)  # fmt: skip
        else:
            fail(result, "killed", f"its process ended with exit status {code}")
        return ended(result, time.monotonic() - self.since)

    def _messages(self) -> list[str]:
        with self._log:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-MESSAGES:]


def _run(connection: Connection[Any, Any], item: Item, folder: str, verify: bool, log: Any) -> None:
    """The child's end."""
    os.setsid()
    fd = log.detach()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    os.chdir(folder)
    for number in STOPPING:  # either way, and also where a shell had them ignored
        signal.signal(number, signal.default_int_handler)
    child = _Child(connection)
    result = ended(empty_result(item), 0.0)
    try:
        child.watch()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        result = perform(item, verify=verify, admit=child.admit, progress=child.progress)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    child.send("end", result)
    sys.stdout.flush()


class _Child:
    """What the child says and hears."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._may_begin = threading.Event()
        self._said_at = 0.0

    def send(self, kind: str, value: object) -> None:
        with suppress(BrokenPipeError):  # nobody is there any more: `watch` ends us
            self._connection.send((kind, value))

    def watch(self) -> None:
        """Hear in a thread; if the other end is gone, whatever killed it, this is to end too."""
        main = threading.main_thread().ident

        def hear() -> None:
            with suppress(EOFError, OSError):
                while self._connection.recv() == "go":
                    self._may_begin.set()
            if main is not None:
                signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=hear, name="ckptfmt-watch", daemon=True).start()

    def admit(self, need: Need) -> None:
        self.send("need", need)
        self._may_begin.wait()

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._said_at > PROGRESS_S:
            self._said_at = now
            self.send("progress", (done, total))
