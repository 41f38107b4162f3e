"""A checkpoint's tensors, read by a thread of its own while the model is made."""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from ckptfmt import stats, telemetry
from ckptfmt.stats import LoadStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from ckptfmt.checkpoint import Checkpoint
    from ckptfmt.engine import Progress


class _AbandonedError(Exception):
    """Nobody wants the tensors any more: stop reading."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Tensors that are loaded by one call.

    Attributes
    ----------
    names : sequence of str or None
        Which; all of them if None.
    device : str or mapping of str to str
        Where to.
    dtype : str or None
        What floating ones are cast to.
    """

    names: Sequence[str] | None = None
    device: str | Mapping[str, str] = "cpu"
    dtype: Any = None


class Reader:
    """Reads in a thread. Use as a context manager: leaving it stops the thread and waits for it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Open until this is left.
    verify : bool or None
        As ``Checkpoint.load`` has it.
    progress : callable or None
        Called from the thread.

    Attributes
    ----------
    placed : bool
        Whether tensors stay where they are read to, whatever the library says.
    began, ended, asked : float
        When the thread began and ended to read, and when a tensor was asked for first; 0 before.
    cast : int
        Tensors that were given another dtype than they had.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, verify: bool | None, progress: Progress | None
    ) -> None:
        self.checkpoint = checkpoint
        self.placed = True
        self.began = self.ended = self.asked = 0.0
        self.cast = 0
        self.left = set(checkpoint.names)
        self._verify, self._progress = verify, progress
        self._portions: Sequence[Portion] = ()
        self._found: dict[str, Any] = {}
        self._stats: list[LoadStats] = []
        self._error: BaseException | None = None
        self._done, self._abandoned = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, portions: Sequence[Portion], *, when_asked: bool = False) -> None:
        """Begin to read, at once or when a tensor is asked for."""
        self._portions = portions
        if not when_asked:
            self._begin()

    def _begin(self) -> None:
        context = copy_context()  # spans of the loads are below the caller's
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="ckptfmt-model"
        )
        self.began = time.perf_counter()
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether it has begun."""
        return bool(self._portions)

    def tensor(self, name: str) -> Any:
        """One tensor, when it is there."""
        self._wait()
        return self._found[name]

    def take(self, name: str, dtype: Any) -> Any:
        """One tensor, in a dtype, when it is there; it is kept here no longer."""
        self._wait()
        with self._lock:
            found = self._found.pop(name)
            self.left.discard(name)
            changed = dtype is not None and found.dtype != dtype
            self.cast += changed
        return found.to(dtype) if changed else found

    def remember(self) -> None:
        """Wait for the end, and make its statistics those of the caller's latest load."""
        self._wait()
        if self._stats:
            stats.remember(reduce(LoadStats.plus, self._stats))

    def raise_its_error(self) -> None:
        """Raise what ended the reading, if it failed: what came of that elsewhere only follows."""
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        with self._lock:
            if not self.asked:
                self.asked = time.perf_counter()
                if self._thread is None:
                    self._begin()
        self._done.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for portion in self._portions:
                self._found |= self.checkpoint.load(
                    portion.names, device=portion.device, dtype=portion.dtype,
                    verify=self._verify, progress=self._tick,
                )  # fmt: skip
                found = self.checkpoint.load_stats()
                if found is not None:
                    self._stats.append(replace(found))
        except BaseException as error:  # told to whoever asks for a tensor
            self._error = error
        finally:
            self.ended = time.perf_counter()
            self._done.set()

    def _tick(self, done: int, total: int) -> None:
        if self._abandoned.is_set():
            raise _AbandonedError
        if self._progress is not None:
            self._progress(done, total)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._abandoned.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt:  # it still uses the files
                continue
        self._found.clear()
        if self.began and self.asked and error is None:
            ahead = min(self.asked, self.ended) - self.began
            telemetry.log.info(
                "%s: of %.3f s of reading %.3f s went by while the model was made; %d tensors were "
                "cast to what it wants",
                self.checkpoint.path, self.ended - self.began, ahead, self.cast,
            )  # fmt: skip
