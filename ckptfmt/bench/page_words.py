"""Figures, words and axes of a bench report: any value of a record as text of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ckptfmt.rendering import printable
from ckptfmt.units import format_nbytes


def text(value: object) -> str:
    """Any value as text of the page: data, whatever it contains."""
    return escape(printable(str(value)))


def rate(gb_s: float | None) -> str:
    """``1.90 GB/s``; a dash for what is not known."""
    return "–" if gb_s is None else f"{figure(gb_s)} GB/s"


def figure(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or not math.isfinite(value):
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 2 if abs(value) >= 0.1 else 6)}f}"


def ticks(most: float, wanted: int = 5) -> list[float]:
    """Round values from 0 to `most`."""
    if not most > 0:
        return [0.0]
    rough = most / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    return [step * i for i in range(int(most / step * 1.0001) + 1)]


def axis(most: float, unit: str) -> str:
    """The values below a picture."""
    marks = ticks(most)
    decimals = max(0, -math.floor(math.log10(marks[1]) + 1e-9)) if len(marks) > 1 else 0
    spans = []
    for i, mark in enumerate(marks):
        at = 100 * mark / most if most > 0 else 0
        label = f"{mark:.{decimals}f}" + (f" {unit}" if i == len(marks) - 1 else "")
        spans.append(f'<span{" class=end" * (at > 90)} style="left:{at:.2f}%">{label}</span>')
    return f'<div class="axis" aria-hidden="true">{"".join(spans)}</div>'


def label(key: object) -> str:
    """A name of the record as people read it."""
    return str(key).removesuffix("_nbytes").replace("_", " ").replace("io uring", "io_uring")


def shown(key: object, value: object) -> str:
    """A value as people read it: bytes with their unit, switches as on and off."""
    if value is None or value == "":
        return "–"
    if isinstance(value, (bool, int, float)):
        return _number(key, value)
    if isinstance(value, Mapping):
        return ", ".join(f"{label(k)} {shown(k, v)}" for k, v in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(shown(key, one) for one in value) or "–"
    return str(value)


def _number(key: object, value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return figure(value)
    if not str(key).endswith("nbytes"):
        return str(value)
    whole = (
        f"{value >> bits} {unit}"
        for bits, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB"))
        if value % (1 << bits) == 0 and 0 < value >> bits < 4096
    )
    return next(whole, format_nbytes(value))
