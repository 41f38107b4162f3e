"""What happened in time, as a bench report draws it: throughput, and a track for each worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckptfmt.bench.page_style import CLASSES
from ckptfmt.bench.page_timeline import IN_FLIGHT, KINDS
from ckptfmt.bench.page_words import axis, figure, rate, text, ticks

if TYPE_CHECKING:
    from ckptfmt.bench.page_timeline import Lane, Timeline

#: Height of a picture in units of its own.
FULL = 100
#: A limit that is so many times the highest throughput would flatten it, and is left out.
BEYOND = 4


def over_time(found: Timeline, limit: float | None, limit_name: str) -> str:
    """Throughput, then each worker, above one axis."""
    if not found.seconds > 0:
        return ""
    rows = []
    if found.rates:
        rows.append('<div class="label">throughput</div>' + _throughput(found, limit, limit_name))
    for lane in found.lanes:
        rows.append(_track(lane, found.seconds))
    rows.append(f'<div class="blank"></div>{axis(found.seconds, "s")}')
    many = " many" if len(found.lanes) > 6 else ""
    return f'<div class="tracks{many}">{"".join(rows)}</div>{_legend(found.lanes)}'


def _throughput(found: Timeline, limit: float | None, limit_name: str) -> str:
    highest = max(gb_s for _, gb_s in found.rates)
    near = limit is not None and limit <= BEYOND * highest
    most = max(highest, limit if near and limit is not None else 0.0) * 1.06 or 1.0
    points = [
        f"{1000 * at / found.seconds:.1f} {FULL - FULL * gb_s / most:.1f}"
        for at, gb_s in found.rates
    ]
    first, last = points[0].split()[0], points[-1].split()[0]
    mean = sum(gb_s for _, gb_s in found.rates) / len(found.rates)
    told = f"Throughput over {figure(found.seconds)} s: {rate(mean)} in the mean, "
    told += f"{rate(highest)} at most"
    shapes = "".join(
        f'<line class="grid" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>'
        for y in (FULL - FULL * mark / most for mark in ticks(most, 3))
    )
    shapes += f'<path class="area" d="M{first} {FULL}L{" ".join(points)}L{last} {FULL}z"/>'
    shapes += f'<path class="line" d="M{" ".join(points)}"/>'
    levels = [
        _level(rate(mark), FULL - FULL * mark / most) for mark in ticks(most, 3)[1:]
        if not near or limit is None or abs(mark - limit) > 0.12 * most
    ]  # fmt: skip
    if near and limit is not None:
        y = FULL - FULL * limit / most
        shapes += f'<line class="ceiling-line" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>'
        levels.append(_level(f"{limit_name}, {rate(limit)}", y))
    return (
        f'<div class="plot">{_stretched(1000, "tall", told, shapes)}{"".join(levels)}</div>'
    )


def _level(label: str, y: float) -> str:
    return f'<span class="level" style="top:calc({y:.1f}% - .6rem)">{text(label)}</span>'


def _track(lane: Lane, seconds: float) -> str:
    """What a worker did; below, what it had under way meanwhile."""
    columns = len(lane.shares[KINDS[0]])
    told = ", ".join(
        f"{kind} {lane.seconds[kind] / seconds:.0%}" for kind in KINDS if lane.seconds[kind]
    )
    device = f" <small class=dim>{text(lane.device)}</small>" if lane.device else ""
    found = [
        f'<div class="label of">{text(lane.name)}{device}</div>',
        _stretched(columns, "band", f"{lane.name}: {told}", _stack(lane.shares)),
    ]
    for kind in IN_FLIGHT:
        most = lane.most[kind]
        if most > 1:
            noun = {"read": "reads", "copy": "copies"}[kind]
            shape = f'<path class="{CLASSES[kind]}" d="{_steps(lane.in_flight[kind], most)}"/>'
            label = f"up to {most} {noun}"
            found += [
                f'<div class="label"><small class="dim">{label}</small></div>',
                _stretched(columns, "strip", f"{lane.name}: {label}", shape),
            ]
    return "".join(found)


def _stretched(width: int, shape: str, told: str, inside: str) -> str:
    return (
        f'<svg class="{shape}" role="img" viewBox="0 0 {width} {FULL}" '
        f'preserveAspectRatio="none">'
        f"<title>{text(told)}</title>{inside}</svg>"
    )


def _stack(shares: Mapping[str, Sequence[float]]) -> str:
    """Shares of each column, one on the other: work at the bottom, waiting on top."""
    order = [k for k in KINDS if not k.startswith("wait")]
    order += [k for k in KINDS if k.startswith("wait")]
    base = [0.0] * len(shares[KINDS[0]])
    found = []
    for kind in order:
        top = [low + share for low, share in zip(base, shares[kind], strict=True)]
        spans = [(_y(high), _y(low)) for low, high in zip(base, top, strict=True)]
        base = top
        path = _boxes(spans)
        if path:
            found.append(f'<path class="{CLASSES[kind]}" d="{path}"/>')
    return "".join(found)


def _y(share: float) -> int:
    return FULL - round(FULL * min(share, 1.0))


def _boxes(spans: Sequence[tuple[int, int]]) -> str:
    """A rectangle for each run of equal columns."""
    path, at = [], 0
    while at < len(spans):
        high, low = spans[at]
        end = at + 1
        while end < len(spans) and spans[end] == spans[at]:
            end += 1
        if high < low:
            path.append(f"M{at} {high}h{end - at}v{low - high}h{at - end}z")
        at = end
    return "".join(path)


def _steps(counts: Sequence[float], most: int) -> str:
    return _boxes([(_y(count / most), FULL) for count in counts])


def _legend(lanes: Sequence[Lane]) -> str:
    """What the colours mean, and how much of all the workers' time it was."""
    sums = {kind: sum(lane.seconds[kind] for lane in lanes) for kind in KINDS}
    total = sum(sums.values())
    shown = [(kind, f"{sums[kind] / total:.0%}") for kind in KINDS if sums[kind]]
    shown.sort(key=lambda entry: -sums[entry[0]])
    flying = [kind for kind in IN_FLIGHT if any(lane.most[kind] > 1 for lane in lanes)]
    shown += [(kind, "in flight") for kind in flying if not sums[kind]]
    entries = [
        f'<li><svg aria-hidden="true" viewBox="0 0 1 1"><rect class="{CLASSES[kind]}" width="1" '
        f'height="1"/></svg>{kind} <span class="dim">{share}</span></li>'
        for kind, share in shown
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>' if total > 0 else ""
