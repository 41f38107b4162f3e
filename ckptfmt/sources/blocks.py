"""Bytes of files on a hub: fetched ahead and in order, each once, summed up as they come.

Nothing of it is written to a disk. A few threads fetch blocks; a block is handed out once all
before it in its file are in the sum, and is let go once all that was promised to be read of it has
been. So memory is bounded by the window, and readers that go forward never wait for each other.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import HubError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptfmt.sources.repository import RepositoryFile

BLOCK_NBYTES = 16 << 20
#: Requests under way at once: while one waits for the hub, others receive.
FETCHERS = 4
#: Blocks in memory, those under way included.
WINDOW = 8


@dataclass(slots=True)
class _Block:
    file: int
    start: int
    nbytes: int
    left: int  # bytes that are still to be read of it


class Blocks:
    """What will be read of some files, in order.

    Parameters
    ----------
    files : list of RepositoryFile
        All files.
    ranges : iterable of (int, int, int)
        File, offset and byte count of everything that will be read, once each.
    fetch : callable
        Given a file's number, an offset, a byte count and an Event that ends the waiting, the
        bytes. Called from several threads.
    on_confirmed : callable
        Called with a file's number once all of it has come and its sum is the published one.
    where : str
        The repository, for messages.
    """

    def __init__(
        self,
        files: list[RepositoryFile],
        ranges: Iterable[tuple[int, int, int]],
        fetch: Callable[[int, int, int, threading.Event], bytes],
        on_confirmed: Callable[[int], None],
        where: str,
    ) -> None:
        self.files = files
        self.fetch = fetch
        self.on_confirmed = on_confirmed
        self.where = where
        self.stopped = threading.Event()
        self._blocks: list[_Block] = []
        self._position: dict[tuple[int, int], int] = {}
        self._plan(ranges)
        self._next = self._summed = self._held = 0
        self._fetched: dict[int, bytes] = {}
        self._ready: dict[int, memoryview] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._is_summing = False
        self._sum: Any = None
        self._threads = [
            threading.Thread(target=self._work, name=f"ckptfmt-fetch-{i}", daemon=True)
            for i in range(min(FETCHERS, len(self._blocks)))
        ]
        for thread in self._threads:
            thread.start()

    def _plan(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Whole files, for their sums; of a file without one, only blocks that are wanted."""
        left: dict[int, dict[int, int]] = {}
        for file, offset, nbytes in ranges:
            wanted = left.setdefault(file, {})
            end = offset + nbytes
            for number in range(offset // BLOCK_NBYTES, -(-end // BLOCK_NBYTES)):
                first = max(offset, number * BLOCK_NBYTES)
                last = min(end, (number + 1) * BLOCK_NBYTES)
                wanted[number] = wanted.get(number, 0) + last - first
        for file in sorted(left):
            size = self.files[file].nbytes
            for number, start in enumerate(range(0, size, BLOCK_NBYTES)):
                wanted_nbytes = left[file].get(number, 0)
                if wanted_nbytes or self.files[file].digest:
                    self._position[file, number] = len(self._blocks)
                    nbytes = min(BLOCK_NBYTES, size - start)
                    self._blocks.append(_Block(file, start, nbytes, wanted_nbytes))

    # ---- for those who read ----

    def read_into(self, file: int, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` of a file on, waiting until it has come."""
        done = 0
        while done < len(buffer):
            position = self._position[file, (offset + done) // BLOCK_NBYTES]
            data = self._wait_for(position)
            block = self._blocks[position]
            at = offset + done - block.start
            nbytes = min(len(buffer) - done, block.nbytes - at)
            buffer[done : done + nbytes] = data[at : at + nbytes]
            done += nbytes
            with self._changed:
                block.left -= nbytes
                if block.left == 0:
                    del self._ready[position]
                    self._held -= 1
                    self._changed.notify_all()

    def _wait_for(self, position: int) -> memoryview:
        with self._changed:
            self._changed.wait_for(lambda: position in self._ready or self._is_over())
            if position not in self._ready:
                raise self._error or _stopped(self.where)
            return self._ready[position]

    def finish(self) -> None:
        """Wait until all has come and been summed up; raise what went wrong."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._summed == len(self._blocks) or self._is_over()
            )
            if self._summed < len(self._blocks):
                raise self._error or _stopped(self.where)
        self.stop()

    def stop(self) -> None:
        """Begin no further request, wake who waits, and wait for the requests under way."""
        self.stopped.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _is_over(self) -> bool:
        return self._error is not None or self.stopped.is_set()

    # ---- in the threads ----

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_fetch_or_end)
                    if self._is_over() or self._next == len(self._blocks):
                        return
                    position = self._next
                    self._next += 1
                    self._held += 1
                block = self._blocks[position]
                data = self.fetch(block.file, block.start, block.nbytes, self.stopped)
                with self._changed:
                    self._fetched[position] = data
                    if self._is_summing:
                        continue  # who sums up comes to this block, too
                    self._is_summing = True
                self._hand_out()
        except BaseException as error:  # handed to those who wait
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _may_fetch_or_end(self) -> bool:
        return self._is_over() or self._next == len(self._blocks) or self._held < WINDOW

    def _hand_out(self) -> None:
        """Sum up what has come, in order, and hand it out; one thread at a time."""
        while True:
            with self._changed:
                data = self._fetched.pop(self._summed, None)
                if data is None:
                    self._is_summing = False
                    return
            block = self._blocks[self._summed]
            self._add(block, data)
            with self._changed:
                if block.left:
                    self._ready[self._summed] = memoryview(data)
                else:
                    self._held -= 1
                self._summed += 1
                self._changed.notify_all()

    def _add(self, block: _Block, data: bytes) -> None:
        file = self.files[block.file]
        if file.digest:
            if block.start == 0:
                self._sum = begun_sum(file)
            self._sum.update(data)
        if block.start + block.nbytes == file.nbytes:
            if file.digest:
                check_sum(f"{self.where}: {file.name}", file, self._sum.hexdigest())
            self.on_confirmed(block.file)


def begun_sum(file: RepositoryFile) -> Any:
    """A sum of the kind that the hub publishes for this file."""
    if file.algorithm == "git":
        return hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)
    return hashlib.sha256()


def check_sum(where: str, file: RepositoryFile, found: str) -> None:
    """Compare a file's sum with the one that the hub publishes."""
    if found != file.digest:
        name = "SHA-256" if file.algorithm == "sha256" else "git's SHA-1"
        raise HubError(
            f"{where}: its {name} is {found}, the hub says {file.digest}", file=file.name,
            hint="the download is damaged, or the file has changed at the hub: fetch it again; "
            "a conversion that had finished partitions goes on with --resume",
        )  # fmt: skip


def _stopped(where: str) -> HubError:
    return HubError(f"{where}: the conversion was stopped")
