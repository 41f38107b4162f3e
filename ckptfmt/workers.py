"""Threads that work while the calling one watches: progress, Ctrl-C, and nobody left behind."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: How often the calling thread looks up: a Ctrl-C stops new work within this time.
TICK_S = 0.1


def run_workers(
    work: Callable[[], None],
    count: int,
    *,
    name: str,
    stop: Callable[[], None],
    tick: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Run `work` in `count` threads until all of them return.

    Parameters
    ----------
    work : callable
        The body; it must not raise.
    count : int
        Threads.
    name : str
        Of the threads, as ``top -H`` shows it.
    stop : callable
        Asks the workers to return soon. Called when this thread is interrupted.
    tick : callable, optional
        Called in this thread now and then, and once at the end. It may raise.
    meanwhile : callable, optional
        Called in this thread once all are at work. It may raise.
    """
    crew = _Crew(work)
    threads = [threading.Thread(target=crew.body, name=f"{name}-{i}") for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        if meanwhile is not None:
            meanwhile()
        while len(crew.ended) < count:
            crew.wait()
            if tick is not None and len(crew.ended) < count:
                tick()
        if tick is not None:
            tick()
    except BaseException:
        stop()
        crew.dismiss()
        raise
    finally:
        for thread in threads:
            if thread.is_alive():
                thread.join()  # it has nothing left to do


class _Crew:
    """Who has begun and who has ended, by what the workers themselves say.

    ``Thread.join`` cannot tell: interrupted by Ctrl-C, Python up to 3.12 calls a thread dead that
    is at work (``_wait_for_tstate_lock``), and the memory it reads into would be freed under it.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.begun: list[None] = []
        self.ended: list[None] = []
        self.dismissed = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def body(self) -> None:
        """Of each thread."""
        self.begun.append(None)
        try:
            if not self.dismissed:
                self.work()
        finally:
            self.ended.append(None)
            self._wake.put(None)

    def wait(self) -> None:
        """Until another one has ended, or a tick has passed."""
        with suppress(Empty):
            self._wake.get(timeout=TICK_S)

    def dismiss(self) -> None:
        """Wait for those at work, however often someone presses Ctrl-C: they still use the memory.

        One whose start was cut off may begin later, and finds that it is not wanted.
        """
        self.dismissed = True
        while True:
            try:
                while len(self.ended) < len(self.begun):
                    self.wait()
            except KeyboardInterrupt:
                continue
            return
