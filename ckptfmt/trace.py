"""What the workers of a load did when, as a trace that Perfetto and Chrome open.

The format is Chrome's trace event format, as a JSON object: a process for each device, a thread
("lane") for each kind of work of each worker. Reads in flight and copies of one worker overlap,
which events of one thread may not: they are spread over as many lanes as it takes.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ckptfmt.errors import failing_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

#: As ``struct Event`` in ``_native/run.pxd``. Times are ns of CLOCK_MONOTONIC.
TRACE_DTYPE = np.dtype([
    ("begin", "<i8"), ("end", "<i8"), ("op", "<i8"), ("nbytes", "<i8"), ("kind", "<i4"),
    ("worker", "<i4"),
])  # fmt: skip


class Kind(NamedTuple):
    """What an event may be: its own name, its category, and the name of its lanes."""

    name: str
    category: str
    lane: str


#: By number, as ``enum Doing`` in ``_native/run.pxd``.
KINDS = (
    Kind("read", "read", "reads"),
    Kind("read through the page cache", "read", "reads through the page cache"),
    Kind("checksum", "processor", "checksums"),
    Kind("copy to the device", "device", "copies to the device"),
    Kind("wait for the disk", "wait", "waits for the disk"),
    Kind("wait for the device", "wait", "waits for the device"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What was recorded of one read plan. A device may have several.

    Attributes
    ----------
    device : str
        Where its bytes went.
    events : array of TRACE_DTYPE
        In any order.
    files : list of str
        By the number that ops have for them.
    ops : array of read_plan.OP_DTYPE
        What ``op`` of an event is a row of.
    """

    device: str
    events: npt.NDArray[np.void]
    files: list[str]
    ops: npt.NDArray[np.void]


class _Event(NamedTuple):
    """A row of TRACE_DTYPE, and what it belongs to."""

    begin: int
    end: int
    op: int
    nbytes: int
    kind: int
    worker: int
    trace: int


def write(
    path: str | os.PathLike[str], traces: Sequence[Trace], metadata: Mapping[str, object]
) -> None:
    """Write a trace file; a file that is there is replaced once the new one is whole.

    Parameters
    ----------
    path : path-like
        A file, or a device or pipe to write to.
    traces : sequence of Trace
        Of all devices.
    metadata : mapping of str to object
        What else to keep with it; values that JSON has.

    Raises
    ------
    FileError
        It cannot be written. What was there is as it was.
    """
    name = os.fspath(path)
    text = render(traces, metadata)
    with failing_as(name, "the trace cannot be written"):
        if os.path.exists(name) and not os.path.isfile(name):
            with open(name, "w", encoding="utf-8") as stream:  # replacing it would surprise
                stream.write(text)
            return
        target = os.path.realpath(name)
        partial = f"{target}.{os.getpid()}.partial"
        try:
            with open(partial, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise


def render(traces: Sequence[Trace], metadata: Mapping[str, object]) -> str:
    """The text of a trace file: one line for each event.

    Times count from the first event. They are whole microseconds: readers turn fractions into
    nanoseconds by way of floats, and what is a nanosecond off may seem to overlap.
    """
    began = min((int(t.events["begin"].min()) for t in traces if len(t.events)), default=0)
    head = json.dumps({**metadata, "clock": "CLOCK_MONOTONIC", "began_ns": began})
    events = ",\n".join(
        json.dumps(event, separators=(",", ":")) for event in _trace_events(traces, began)
    )
    return f'{{"displayTimeUnit":"ms",\n"otherData":{head},\n"traceEvents":[\n{events}\n]}}\n'


def _trace_events(traces: Sequence[Trace], began: int) -> Iterator[dict[str, object]]:
    ids = count(1)  # readers take 0 for the system's idle process
    by_device: dict[str, list[int]] = {}
    for number, trace in enumerate(traces):
        by_device.setdefault(trace.device, []).append(number)
    arguments = [_Arguments(trace) for trace in traces]
    pids = {device: next(ids) for device in by_device}
    for device, numbers in by_device.items():
        pid = pids[device]
        yield _name("process", pid, pid, device)
        yield _sort("process", pid, pid, pid)
        events = [_Event._make((*row, n)) for n in numbers for row in traces[n].events.tolist()]
        for worker, kind, lane, members in _lanes(events):
            tid = next(ids)
            suffix = f" ({lane + 1})" if lane else ""
            yield _name("thread", pid, tid, f"worker {worker}: {KINDS[kind].lane}{suffix}")
            yield _sort("thread", pid, tid, tid)
            for event in members:
                begin, end = (event.begin - began) // 1000, (event.end - began) // 1000
                yield {
                    "ph": "X", "pid": pid, "tid": tid, "ts": begin, "dur": end - begin,
                    "name": KINDS[kind].name, "cat": KINDS[kind].category,
                    "args": arguments[event.trace].of(event),
                }  # fmt: skip


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": f"{what}_name", "args": {"name": name}}


def _sort(what: str, pid: int, tid: int, at: int) -> dict[str, object]:
    """Have lanes shown in the order in which they are written."""
    return {
        "ph": "M", "pid": pid, "tid": tid, "name": f"{what}_sort_index", "args": {"sort_index": at}
    }  # fmt: skip


def _lanes(events: Sequence[_Event]) -> Iterator[tuple[int, int, int, list[_Event]]]:
    """Worker, kind, lane and its events in order of time; no two of them overlap."""
    groups: dict[tuple[int, int], list[_Event]] = {}
    for event in sorted(events):
        groups.setdefault((event.worker, event.kind), []).append(event)
    for (worker, kind), members in sorted(groups.items()):
        lanes: list[list[_Event]] = []
        idle: list[int] = []
        busy: list[tuple[int, int]] = []  # until when, which lane
        for event in members:
            while busy and busy[0][0] <= event.begin:
                heappush(idle, heappop(busy)[1])
            if not idle:
                heappush(idle, len(lanes))
                lanes.append([])
            lane = heappop(idle)
            lanes[lane].append(event)
            heappush(busy, (event.end, lane))
        for number, lane_members in enumerate(lanes):
            yield worker, kind, number, lane_members


class _Arguments:
    """What is told of an event beside its time."""

    def __init__(self, trace: Trace) -> None:
        self.files = trace.files
        self.number = trace.ops["file"].tolist()
        self.offset = trace.ops["offset"].tolist()

    def of(self, event: _Event) -> dict[str, object]:
        found: dict[str, object] = {}
        if 0 <= event.op < len(self.number):
            found["op"] = event.op
            found["file"] = self.files[self.number[event.op]]
            found["offset"] = self.offset[event.op]
        if event.nbytes:
            found["nbytes"] = event.nbytes
        return found
