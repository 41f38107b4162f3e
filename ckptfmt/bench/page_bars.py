"""Bars of a bench report: a table whose rows are drawn, too.

Only shapes are SVG, and they stretch with the page; text is HTML, which keeps its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckptfmt.bench.page_timeline import number
from ckptfmt.bench.page_words import axis, figure, rate, text, ticks

#: The axis of bars ends at so many times the largest of what is to be compared; a ceiling beyond
#: is cut off, or one of memory would leave nothing to be seen of a slow disk.
BEYOND = 4
#: Runs that are drawn one by one.
RUNS = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes
    ----------
    role : str
        ``load``, ``limit``, ``ceiling`` or ``peer``: its class.
    name, detail : str
        What it is.
    gb_s : float or None
        Its length; None if it could not be measured.
    runs : tuple of float
        What it is the middle of.
    """

    role: str
    name: str
    detail: str = ""
    gb_s: float | None = None
    runs: tuple[float, ...] = field(default=())


def runs_of(value: object) -> tuple[float, ...]:
    """The figures of several runs, as far as they are figures."""
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return tuple(run for one in given if (run := number(one)) is not None and run >= 0)


def bars(groups: Mapping[str, Sequence[Bar]], caption: str) -> str:
    """A table whose rows are drawn, too: one scale for all, so that lengths may be compared."""
    every = [bar for group in groups.values() for bar in group]
    lengths = [max((*bar.runs, bar.gb_s or 0.0)) for bar in every]
    compared = [n for n, bar in zip(lengths, every, strict=True) if bar.role != "ceiling"]
    longest = max(lengths, default=0.0)
    most = min(longest * 1.03, BEYOND * max(compared, default=0.0)) or longest
    load = next((bar.gb_s for bar in every if bar.role == "load"), None)
    if most < longest:
        caption += " A bar that ends in a gap goes on beyond the axis."
    rows = [f'<table class="bars" role="table"><caption>{caption}</caption>']
    for title, group in groups.items():
        if not group:
            continue
        rows.append('<tbody role="rowgroup">')
        if title:
            rows.append(
                f'<tr role="row"><th class="group" role="columnheader" scope="rowgroup" '
                f'style="grid-column:1/-1">{text(title)}</th></tr>'
            )
        rows += [_row(bar, most, load) for bar in group]
        rows.append("</tbody>")
    rows.append(
        '<tfoot aria-hidden="true"><tr><td class="blank"></td><td class="blank"></td>'
        f'<td class="chart">{axis(most, "GB/s")}</td></tr></tfoot></table>'
    )
    return "".join(rows)


def _row(bar: Bar, most: float, load: float | None) -> str:
    detail = f"<small>{text(bar.detail)}</small>" if bar.detail else ""
    badge = ' <span class="badge">◂ limits</span>' if bar.role == "limit" else ""
    own = ' class="own"' if bar.role == "load" else ""
    return (
        f'<tr role="row"{own}>'
        f'<th class="name" role="rowheader" scope="row">{text(bar.name)}{badge}{detail}</th>'
        f'<td class="rate" role="cell">{rate(bar.gb_s)}</td>'
        f'<td class="chart" role="cell">{_drawn(bar, most, load)}</td></tr>'
    )


def _drawn(bar: Bar, most: float, load: float | None) -> str:
    """The bar, the range of its runs, and a line where the load's bar ends."""

    def at(gb_s: float) -> str:
        return f"{min(100 * gb_s / most, 100):.2f}%" if most > 0 else "0%"

    parts = [f"<title>{text(_told(bar))}</title>"]
    parts += [
        f'<line class="grid" x1="{at(mark)}" x2="{at(mark)}" y1="0" y2="100%"/>'
        for mark in ticks(most)
    ]
    if bar.gb_s is not None:
        parts.append(
            f'<rect class="bar {bar.role}" y="50%" width="{at(bar.gb_s)}" height="14" rx="1.5" '
            'transform="translate(0 -7)"/>'
        )
        if bar.gb_s > most:
            parts.append(
                '<rect class="cut" x="96%" y="50%" width="5" height="20" '
                'transform="translate(0 -10) skewX(-12)"/>'
            )
    if load is not None and bar.role != "load":
        parts.append(f'<line class="mark" x1="{at(load)}" x2="{at(load)}" y1="0" y2="100%"/>')
    runs = [run for run in bar.runs if run <= most]
    if len(bar.runs) > 1 and runs:
        low, high = at(min(runs)), at(max(runs))
        parts.append(f'<line class="range" x1="{low}" x2="{high}" y1="50%" y2="50%"/>')
        shown = runs if len(runs) <= RUNS else [min(runs), max(runs)]
        parts += [f'<circle class="run" cx="{at(run)}" cy="50%" r="2.4"/>' for run in shown]
    return f'<svg role="img">{"".join(parts)}</svg>'


def _told(bar: Bar) -> str:
    told = f"{bar.name}: {rate(bar.gb_s)}"
    if len(bar.runs) > 1:
        low, high = figure(min(bar.runs)), figure(max(bar.runs))
        told += f", {low} to {high} in {len(bar.runs)} runs"
    return told


def gain_bar(gain: float, largest: float) -> str:
    """A small bar to the right of the middle for a gain, to the left of it for a loss."""
    span = 50 * min(abs(gain) / largest, 1.0) if largest > 0 else 0.0
    kind, start = ("gain", 50.0) if gain >= 0 else ("loss", 50.0 - span)
    return (
        f'<svg aria-hidden="true"><rect class="{kind}" x="{start:.1f}%" width="{span:.1f}%" '
        'height="100%"/><line class="zero" x1="50%" x2="50%" y1="0" y2="100%"/></svg>'
    )
