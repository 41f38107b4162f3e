"""Tensors one after the other, the next ones being read meanwhile, in bounded memory."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as replace_entry

from ckptfmt import device_loading, layout, loading, telemetry, tensors
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError
from ckptfmt.stats import LoadStats

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextvars import Context

    from ckptfmt.dtypes import Dtype

#: Read-ahead while casting.
CAST_NBYTES = 256 << 20
#: Cast tensors start on pages, so that each can be given back alone.
SPAN_NBYTES = 4096


class _AbandonedError(Exception):
    """The consumer went away: stop reading for it."""


def _batches(request: loading.Request, max_nbytes: int) -> Iterator[dict[str, int]]:
    """Cut the chosen names into batches: one is handed out while the next is read, half each."""
    spans = request.files.spans()
    batch: dict[str, int] = {}
    nbytes, last = 0, -1
    for name, position in request.chosen.items():
        span = int(spans[position]) if position != last else 0
        # Tied names, which span nothing more, stay with the first: they share its memory.
        if span and batch and nbytes + span > max_nbytes // 2:
            yield batch
            batch, nbytes = {}, 0
        batch[name] = position
        nbytes += span
        last = position
    if batch:
        yield batch


def stream(
    request: loading.Request, max_nbytes: int
) -> Generator[tuple[str, Any], None, LoadStats | None]:
    """Yield names and tensors in file order. See ``Checkpoint.stream``.

    Returns the statistics once all have been yielded; None if there was nothing to read.
    """
    read: list[LoadStats] = []
    total = None

    def without_stats(item: tuple[str, Any, LoadStats | None]) -> tuple[str, Any]:
        if item[2] is not None:
            read.append(item[2])
        return item[:2]

    with (
        telemetry.span_aside("stream", path=request.files.path) as (span, context),
        closing(stream_with_stats(request, max_nbytes, context)) as found,
    ):
        try:
            # Unlike a loop's variables, this keeps no tensor once it has been yielded.
            yield from map(without_stats, found)
        finally:
            if read:
                total = reduce(LoadStats.plus, read)
                total = replace(total, unverified=request.files.unverified)
                span.tell(total)
                telemetry.tell_load(request.files.path, total, "streamed")
    return total


def stream_with_stats(
    request: loading.Request,
    max_nbytes: int,
    context: Context | None = None,
) -> Generator[tuple[str, Any, LoadStats | None], None, None]:
    """As `stream`; with the first tensor of each reading come its statistics.

    Reads are made in `context`, a copy of the caller's if not given.
    """
    if max_nbytes <= 0:
        raise OptionError(f"max_nbytes is {max_nbytes}, expected more than 0")
    entries = request.files.index.tensors
    tensors.check_framework(request.framework, [entries[p] for p in request.unique])
    if request.devices is not None:
        request.devices.place(request)  # here: torch's current stream is the calling thread's
    abandoned = threading.Event()

    def tick(done: int, total: int) -> None:
        if abandoned.is_set():
            raise _AbandonedError

    def read(batch: dict[str, int]) -> tuple[list[tuple[str, Any]], LoadStats]:
        part = replace(request, chosen=batch, progress=tick)
        if request.devices is not None:
            found, stats = device_loading.load(part, request.devices)
        else:
            found, stats = loading.read_tensors(part)
        return list(found.items()), replace(stats, nbytes=request.files.nbytes(batch.values()))

    batches = _batches(request, max_nbytes)
    within = context or copy_context()
    ahead = None
    with ThreadPoolExecutor(1, thread_name_prefix="ckptfmt-stream") as reader:
        try:
            ahead = _submit(reader, within, read, batches)
            while ahead is not None:
                found, stats = ahead.result()
                ahead = _submit(reader, within, read, batches)
                found.reverse()
                first: LoadStats | None = stats
                while found:
                    # Nothing here keeps a tensor once it has been yielded.
                    yield (*found.pop(), first)
                    first = None
        finally:
            abandoned.set()
            _wait(ahead)


def _submit(
    reader: ThreadPoolExecutor, context: Context, read: Any, batches: Iterator[dict[str, int]]
) -> Future[tuple[list[tuple[str, Any]], LoadStats]] | None:
    batch = next(batches, None)
    return reader.submit(context.run, read, batch) if batch is not None else None


def _wait(future: Future[Any] | None) -> None:
    """Until a read is over, however often someone presses Ctrl-C: it still uses the files."""
    while future is not None and not future.done():
        try:
            futures.wait([future])
        except KeyboardInterrupt:
            continue


def load_cast(request: loading.Request, row: Dtype) -> tuple[dict[str, Any], LoadStats]:
    """Load and cast, so that no second copy of the model exists at any time."""
    began = time.perf_counter()
    progress, found = request.progress, {}
    entries = request.files.index.tensors
    total = sum(entries[p].nbytes for p in request.unique)
    done = 0
    empty = _cast_targets(request, row)
    made: dict[int, Any] = {}
    read_stats = LoadStats()
    # Closed also on failure: the files may be, once this returns, so nothing may read any more.
    with closing(stream_with_stats(request, CAST_NBYTES)) as read:
        for name, tensor, stats in read:
            position = request.chosen[name]
            entry = entries[position]
            if position in made:
                found[name] = tensors.alias(made[position])
            else:
                target = empty.pop(position, None)
                if target is not None:
                    tensors.cast_into(target, tensor)
                found[name] = made[position] = tensor if target is None else target
                done += entry.nbytes
            if stats is not None:
                read_stats = read_stats.plus(stats)
            if progress is not None:
                progress(done, total)
    return found, replace(
        read_stats, seconds=time.perf_counter() - began,
        staging=f"cast in batches of {CAST_NBYTES // 2} bytes",
    )  # fmt: skip


def _cast_targets(request: loading.Request, row: Dtype) -> dict[int, Any]:
    """A tensor for each that will be cast, each a region of one mapping as after any other load."""
    tensors.check_cast(request.framework, row)
    make = tensors.maker(request.framework)
    entries = {
        position: replace_entry(request.files.index.tensors[position], dtype=row.name)
        for position in request.unique
        if DTYPES[request.files.index.tensors[position].dtype].is_float
        and request.files.index.tensors[position].dtype != row.name
    }
    sizes = {position: row.nbytes(entry.shape) for position, entry in entries.items()}
    spans = {position: layout.align_up(nbytes, SPAN_NBYTES) for position, nbytes in sizes.items()}
    total = sum(spans.values())
    memory = loading.allocate(total) if total else None
    targets, offset = {}, 0
    for position, entry in entries.items():
        region = None
        if memory is not None and sizes[position]:
            region = memory.region(offset, sizes[position], spans[position])
        targets[position] = make(entry, region)
        offset += spans[position]
    return targets
