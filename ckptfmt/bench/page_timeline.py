"""What the workers of a load did in time, thinned to the columns that a picture has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a worker may be at, the first of which hides the others: it compares checksums of what it
#: reads, and reads and copies that it has begun go on while it does something else.
KINDS = ("verify", "buffered read", "wait for device", "wait for disk", "copy", "read")
#: Those of which a worker may have several under way.
IN_FLIGHT = ("read", "copy")
#: Columns of one worker at most, and of all of them: what bounds the page's size.
COLUMNS, ALL_COLUMNS = 600, 9600
#: Workers that are drawn.
WORKERS = 64


@dataclass(slots=True)
class Lane:
    """One worker's time.

    Attributes
    ----------
    name, device : str
        The worker, and where it brings bytes to.
    shares : dict of str to list of float
        For each kind the part of each column that was spent on it.
    in_flight : dict of str to list of float
        Reads and copies under way, as the mean of each column.
    most : dict of str to int
        How many there were at any time.
    seconds : dict of str to float
        Spent on each kind.
    """

    name: str
    device: str
    shares: dict[str, list[float]]
    in_flight: dict[str, list[float]]
    most: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IN_FLIGHT, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))


@dataclass(slots=True)
class Timeline:
    """All that is drawn over time.

    Attributes
    ----------
    seconds : float
        Where it ends; 0 if there is nothing to draw.
    lanes : list of Lane
        One for each worker that is drawn.
    left_out : int
        Workers that are not.
    rates : list of (float, float)
        Seconds and GB/s, in order of time.
    """

    seconds: float
    lanes: list[Lane]
    left_out: int
    rates: list[tuple[float, float]]


def number(value: object) -> float | None:
    """A figure that can be drawn; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: object) -> Mapping[str, Any]:
    """A part of a record; empty if it is not there."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> Sequence[Any]:
    """A list of a record; empty if it is not there."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def timeline(record: Mapping[str, Any]) -> Timeline:
    """What a record has of the load's time."""
    given = mapping(record.get("timeline"))
    workers = [mapping(worker) for worker in items(given.get("workers"))]
    events = [list(_events(worker)) for worker in workers[:WORKERS]]
    rates = _rates(record)
    ends = [end for one in events for _, end, _ in one] + [at for at, _ in rates]
    seconds = max(number(given.get("seconds")) or 0.0, *ends, 0.0)
    columns = min(COLUMNS, ALL_COLUMNS // max(1, len(events)))
    lanes = [
        thin(one, seconds, columns, str(worker.get("name", "")), str(worker.get("device", "")))
        for one, worker in zip(events, workers, strict=False)
        if one
    ]
    return Timeline(seconds, lanes, max(0, len(workers) - WORKERS), rates)


def _events(worker: Mapping[str, Any]) -> Iterator[tuple[float, float, str]]:
    """Begin, end and kind of what takes time and is known."""
    for event in items(worker.get("events")):
        if len(items(event)) < 3:
            continue
        begin, end, kind = number(event[0]), number(event[1]), event[2]
        if begin is not None and end is not None and 0 <= begin < end and kind in KINDS:
            yield begin, end, kind


def _rates(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    points = [
        (at, gb_s)
        for point in items(record.get("throughput"))
        if len(items(point)) >= 2
        and (at := number(point[0])) is not None and at >= 0
        and (gb_s := number(point[1])) is not None and gb_s >= 0
    ]  # fmt: skip
    points.sort()
    step = -(-len(points) // COLUMNS) or 1
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [
        (sum(at for at, _ in group) / len(group), sum(gb_s for _, gb_s in group) / len(group))
        for group in groups
    ]


def thin(
    events: Sequence[tuple[float, float, str]],
    seconds: float,
    columns: int,
    name: str = "",
    device: str = "",
) -> Lane:
    """Spread events over columns: whatever their number, no time is lost and none is invented.

    Parameters
    ----------
    events : sequence of (float, float, str)
        Begin, end and kind, in any order; they may overlap.
    seconds : float
        What all columns together stand for.
    columns : int
        How many there are.
    """
    lane = Lane(
        name, device,
        shares={kind: [0.0] * columns for kind in KINDS},
        in_flight={kind: [0.0] * columns for kind in IN_FLIGHT},
    )  # fmt: skip
    width = seconds / columns
    edges = [(begin, 1, kind) for begin, _, kind in events]
    edges += [(end, -1, kind) for _, end, kind in events]
    edges.sort()
    active = dict.fromkeys(KINDS, 0)
    since = 0.0
    for at, step, kind in edges:
        if at > since:
            _spread(lane, active, since, at, width)
            since = at
        active[kind] += step
        if kind in lane.most:
            lane.most[kind] = max(lane.most[kind], active[kind])
    return lane


def _spread(lane: Lane, active: Mapping[str, int], begin: float, end: float, width: float) -> None:
    """Add a stretch of time, in which nothing changes, to the columns that it is in."""
    doing = next((kind for kind in KINDS if active[kind]), None)
    if doing is None:
        return
    lane.seconds[doing] += end - begin
    shares = lane.shares[doing]
    last = len(shares) - 1
    for column in range(min(int(begin / width), last), min(int(end / width), last) + 1):
        part = (min(end, (column + 1) * width) - max(begin, column * width)) / width
        if part <= 0:
            continue
        shares[column] += part
        for kind, counts in lane.in_flight.items():
            counts[column] += part * active[kind]
