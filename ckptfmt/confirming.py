"""Which partitions count as done: those that are durable, and made of bytes that were confirmed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ckptfmt.dtypes import DTYPES
from ckptfmt.sources.streamed import StreamedSource
from ckptfmt.writer import CHUNK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptfmt.chosen import Chosen
    from ckptfmt.write_plan import WritePlan


class Confirming:
    """Notes finished partitions; of a streamed source, once the sums of its files were right.

    Without this, a conversion that goes on with ``--resume`` would believe a partition whose bytes
    were damaged on their way.

    Parameters
    ----------
    plan : WritePlan
        What goes where.
    chosen : Chosen
        What of the source goes there.
    skip : collection of int
        Partitions that were done before.
    note : callable
        Called with the numbers of all that are done, whenever there are more.
    """

    def __init__(
        self, plan: WritePlan, chosen: Chosen, skip: list[int], note: Callable[[list[int]], None]
    ) -> None:
        self.plan = plan
        self.chosen = chosen
        self.done = list(skip)
        self.note = note
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._streamed = chosen.source if isinstance(chosen.source, StreamedSource) else None
        self._tensors: dict[int, list[int]] = {}
        if self._streamed is not None:
            for position, entry in enumerate(plan.tensors):
                for extent in entry.extents:
                    self._tensors.setdefault(extent.partition, []).append(
                        chosen.positions[position]
                    )
            self._streamed.on_confirmed = self._look
            self._streamed.begin(self._pieces(set(skip)))

    def _pieces(self, skip: set[int]) -> Iterator[tuple[int, int, int]]:
        """What the writer will read of the source, in its order."""
        for chunk in self.plan.chunks(CHUNK_NBYTES):
            if chunk.partition in skip:
                continue
            for piece in chunk.pieces:
                bits = DTYPES[self.chosen.stored[piece.tensor]].bits
                wanted_bits = DTYPES[self.plan.tensors[piece.tensor].dtype].bits
                yield (
                    self.chosen.positions[piece.tensor],
                    piece.start * bits // wanted_bits,
                    piece.nbytes * bits // wanted_bits,
                )

    def on_written(self, number: int) -> None:
        """A partition is durable."""
        with self._lock:
            self._waiting.append(number)
        self._look()

    def finish(self) -> None:
        """Wait until everything is confirmed."""
        if self._streamed is not None:
            self._streamed.finish()

    def stop(self) -> None:
        """Wake everybody who waits for bytes; nothing is noted after this."""
        if self._streamed is not None:
            self._streamed.stop()

    def _look(self) -> None:
        with self._lock:
            ready = [number for number in self._waiting if self._is_confirmed(number)]
            if ready:
                self._waiting = [number for number in self._waiting if number not in ready]
                self.done += ready
                self.note(self.done)

    def _is_confirmed(self, number: int) -> bool:
        streamed = self._streamed
        return streamed is None or all(map(streamed.is_confirmed, self._tensors[number]))
