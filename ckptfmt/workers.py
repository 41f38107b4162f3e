"""Threads that work while the calling one watches: progress, Ctrl-C, and nobody left behind."""

from __future__ import annotations

import threading
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
    """
    threads = [threading.Thread(target=work, name=f"{name}-{i}") for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(TICK_S)
                if tick is not None and thread.is_alive():
                    tick()
        if tick is not None:
            tick()
    except BaseException:
        stop()
        for thread in threads:
            if thread.ident is not None:
                _join(thread)
        raise


def _join(thread: threading.Thread) -> None:
    """Wait for what is under way, however often someone presses Ctrl-C: it uses the memory."""
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            continue
