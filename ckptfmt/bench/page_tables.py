"""Tables of a bench report: what settings would gain, and under which circumstances it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptfmt.bench.page_bars import gain_bar
from ckptfmt.bench.page_timeline import items, mapping, number
from ckptfmt.bench.page_words import label, rate, shown, text
from ckptfmt.units import format_nbytes


def gained(value: float | None) -> str:
    """``+12 %``; a dash for what is not known."""
    if value is None:
        return "–"
    whole = round(100 * value)
    return f"+{whole} %" if whole > 0 else f"−{-whole} %" if whole < 0 else "±0 %"


def gains(record: Mapping[str, Any]) -> str:
    """What each setting would bring, the best first."""

    def known(gain: Mapping[str, Any]) -> float | None:
        measured = number(gain.get("measured_gain"))
        return measured if measured is not None else number(gain.get("predicted_gain"))

    given = [mapping(one) for one in items(record.get("gains")) if mapping(one)]
    if not given:
        return ""
    given.sort(key=lambda gain: -(g if (g := known(gain)) is not None else -9.0))
    every = [number(gain.get(f"{how}_gain")) for gain in given for how in ("predicted", "measured")]
    largest = max([abs(gain) for gain in every if gain is not None] + [0.1])
    best = mapping(mapping(record.get("best")).get("environment"))
    rows = []
    for gain in given:
        environment = str(gain.get("environment") or "")
        chosen = environment in {f"{k}={v}" for k, v in best.items()}
        name = f"{shown('', gain.get('setting'))} {shown('', gain.get('value'))}"
        code = f'<code class="env">{text(environment)}</code>' if environment else ""
        cells = "".join(
            f'<td class="num" role="cell" data-label="{how}">'
            f"{_cell(gain, how, largest)}</td>"
            for how in ("predicted", "measured")
        )
        rows.append(
            f'<tr role="row"{" class=best" * chosen}><th class="wide" role="rowheader" scope="row">'
            f"{text(name)}</th>{cells}"
            f'<td class="wide" role="cell">{text(gain.get("why") or "")} {code}</td></tr>'
        )
    titles = "".join(
        f'<th role="columnheader" scope="col">{title}</th>'
        for title in ("setting", "predicted", "measured", "why, and how to set it")
    )
    return (
        '<section><h2>What a setting would gain</h2><table class="data stacked" role="table">'
        f'<thead role="rowgroup"><tr role="row">{titles}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table></section>'
    )


def _cell(gain: Mapping[str, Any], how: str, largest: float) -> str:
    value = number(gain.get(f"{how}_gain"))
    if value is None:
        return rate(number(gain.get(f"{how}_gb_s")))
    gb_s = number(gain.get(f"{how}_gb_s"))
    to = f' <span class="dim">{rate(gb_s)}</span>' if gb_s is not None else ""
    return f"{gained(value)}{to}{gain_bar(value, largest)}"


def circumstances(record: Mapping[str, Any]) -> str:
    """Settings, machine, files, and what else there is to know of the measurement."""
    load = mapping(mapping(record.get("load")).get("stats"))
    parts = [
        _pairs("Settings, as they were used", mapping(record.get("settings"))),
        _pairs("The machine", mapping(record.get("machine"))),
    ]
    tables = f'<div class="beside">{"".join(parts)}</div>' if any(parts) else ""
    notes = "".join(f"<li>{text(note)}</li>" for note in items(record.get("notes")))
    listed = f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else ""
    return tables + _files(load) + listed


def _pairs(title: str, given: Mapping[str, Any]) -> str:
    if not given:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{text(label(key))}</th><td>{text(shown(key, value))}</td></tr>'
        for key, value in given.items()
    )
    table = f'<table class="data pairs"><tbody>{rows}</tbody></table>'
    return f"<section><h2>{title}</h2>{table}</section>"


def _files(stats: Mapping[str, Any]) -> str:
    """How each partition was read."""
    rows = []
    for name, given in mapping(stats.get("files")).items():
        file = mapping(given)
        ways = [
            f"{format_nbytes(nbytes)} {way}"
            for way in ("direct", "buffered", "mapped")
            if (nbytes := number(file.get(f"{way}_nbytes")))
        ]
        rows.append(
            f'<tr role="row"><th class="wide" role="rowheader" scope="row">{text(name)}</th>'
            f'<td role="cell">{text(", ".join(ways) or "–")}</td>'
            f'<td role="cell">{text(file.get("reason") or "")}</td></tr>'
        )
    if not rows:
        return ""
    return (
        '<section><h2>How each file was read</h2><table class="data stacked" role="table">'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table></section>'
    )
