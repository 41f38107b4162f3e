"""The report of ``ckptfmt bench`` as one HTML file, that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptfmt.bench.page_bars import Bar, bars, runs_of
from ckptfmt.bench.page_style import STYLE
from ckptfmt.bench.page_tables import circumstances, gained, gains
from ckptfmt.bench.page_timeline import COLUMNS, items, mapping, number, timeline
from ckptfmt.bench.page_tracks import over_time
from ckptfmt.bench.page_words import figure, label, rate, shown, text
from ckptfmt.units import format_nbytes

#: A load that reaches so much of a ceiling has nothing more to gain below it.
REACHED = 0.9
#: No script, no font, no picture from anywhere: the file can be opened and sent as it is.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: Kinds of ceilings, in the order in which bytes meet them.
KINDS = {
    "disk": "the disk", "cache": "the page cache", "memory": "fresh memory",
    "checksum": "checksums", "link": "the link to the device",
}  # fmt: skip


def render(record: Mapping[str, Any]) -> str:
    """The page of one record.

    Parameters
    ----------
    record : mapping
        What ``ckptfmt bench --json`` prints. What it lacks is left out of the page.

    Returns
    -------
    str
        An HTML document in UTF-8: no script, no network, light or dark as the reader likes it.
    """
    sections = [_head(record), _bars(record), _time(record), gains(record), _all(record),
                circumstances(record)]  # fmt: skip
    title = f"{_name(record)}: {rate(_gb_s(record.get('load')))}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>ckptfmt bench: {text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(f'{s}{chr(10)}' for s in sections if s)}</main>\n"
        "</body>\n</html>\n"
    )


def _name(record: Mapping[str, Any]) -> str:
    path = str(record.get("path") or "a checkpoint")
    return path.rstrip("/").rpartition("/")[2] or path


def _gb_s(part: object) -> float | None:
    return number(mapping(part).get("gb_s"))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


# ---- what a person should know first ----


def _headline(record: Mapping[str, Any]) -> str:
    gb_s, limit = _gb_s(record.get("load")), mapping(record.get("limit"))
    what, reached = str(limit.get("what") or ""), number(limit.get("reached"))
    if gb_s is None:
        return "No load was measured."
    if not what:
        return f"{_name(record)} loads at {rate(gb_s)}; no ceiling was measured that limits it."
    begun = what[0].upper() + what[1:]
    if reached is None:
        return f"{begun} limits this load, which reaches {rate(gb_s)}."
    if reached >= REACHED:
        return f"{begun} is the limit: the load reaches {_percent(reached)} of what it gives."
    return f"The nearest ceiling is {what}; the load reaches {_percent(reached)} of it."


def _head(record: Mapping[str, Any]) -> str:
    load, limit = mapping(record.get("load")), mapping(record.get("limit"))
    repeat = record.get("repeat")
    facts = [
        record.get("path"), record.get("device") and f"to {record['device']}",
        {"cold": "nothing cached", "warm": "all of it cached"}.get(str(record.get("state"))),
        repeat and ("1 run" if repeat == 1 else f"{repeat} runs"),
        record.get("time"), record.get("ckptfmt") and f"ckptfmt {record['ckptfmt']}",
    ]  # fmt: skip
    head = [
        f'<p class="dim facts">{" · ".join(text(fact) for fact in facts if fact)}</p>',
        f"<h1>{text(_headline(record))}</h1>",
    ]
    if limit.get("advice"):
        head.append(f"<p>{text(limit['advice'])}</p>")
    best = mapping(record.get("best"))
    if best:
        found = " ".join(f"{k}={v}" for k, v in mapping(best.get("environment")).items())
        gives = [rate(_gb_s(best))] if _gb_s(best) is not None else []
        gives += [gained(gain)] if (gain := number(best.get("gain"))) is not None else []
        head.append(
            f'<p>Best setting found: <code class="env">{text(found) or "as it is"}</code>'
            f"{' gives ' if gives else ''}{', '.join(gives)}.</p>"
        )
    return f"<header>{''.join(head)}{_figures(record, load, limit)}</header>"


def _figures(
    record: Mapping[str, Any], load: Mapping[str, Any], limit: Mapping[str, Any]
) -> str:
    """The few numbers that people look for."""
    checkpoint = mapping(record.get("checkpoint"))
    found: list[tuple[str, str, str, str]] = []
    gb_s, seconds = _gb_s(load), number(load.get("seconds"))
    if gb_s is not None:
        runs = runs_of(load.get("runs_gb_s"))
        spread = f"{figure(min(runs))} to {figure(max(runs))}" if len(runs) > 1 else ""
        found.append(("The load", figure(gb_s), "GB/s", spread))
    most = _gb_s(limit)
    if most is not None:
        found.append(("Its limit", figure(most), "GB/s", str(limit.get("what") or "")))
    peers = [(g, c) for c in items(record.get("contenders")) if (g := _gb_s(c)) is not None]
    if peers and gb_s is not None:
        fastest, peer = max(peers, key=lambda one: one[0])
        if fastest > 0:
            name = str(mapping(peer).get("what") or mapping(peer).get("id") or "the fastest peer")
            found.append(("Against the next", f"{gb_s / fastest:.2f}", "×", name))
    if seconds is not None:
        found.append(("Takes", figure(seconds), "s", ""))
    nbytes, tensors = number(checkpoint.get("nbytes")), checkpoint.get("tensors")
    if nbytes is not None:
        value, unit = format_nbytes(nbytes).split()
        parts = checkpoint.get("partitions")
        files = "" if not parts else " in 1 file" if parts == 1 else f" in {parts} files"
        found.append(("Checkpoint", value, unit, f"{tensors} tensors{files}" if tensors else ""))
    entries = [
        f"<div><dt>{text(label)}</dt><dd>{text(value)} <span>{text(unit)}</span>"
        f'<span class="what">{text(what)}</span></dd></div>'
        for label, value, unit, what in found
    ]
    return f'<dl class="figures">{"".join(entries)}</dl>' if entries else ""


# ---- bars ----


def _ceilings(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """By kind, those of the known kinds first; in each the one that counts first."""
    kinds: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in KINDS}
    for one in map(mapping, items(record.get("ceilings"))):
        if one:
            kinds.setdefault(str(one.get("kind") or "other"), []).append(one)
    for found in kinds.values():
        found.sort(key=lambda one: (not _limits(one, record), -(_gb_s(one) or 0.0)))
    return {kind: found for kind, found in kinds.items() if found}


def _limits(ceiling: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    limit = mapping(record.get("limit")).get("id")
    known = {mapping(one).get("id") for one in items(record.get("ceilings"))}
    return ceiling.get("id") == limit if limit in known else bool(ceiling.get("limits"))


def _bar(part: Mapping[str, Any], role: str, detail: str = "") -> Bar:
    name = str(part.get("what") or part.get("id") or "–")
    return Bar(role, name, detail, _gb_s(part), runs_of(part.get("runs_gb_s")))


def _bars(record: Mapping[str, Any]) -> str:
    """The load, of each kind of ceiling the one that counts, and the others that load it."""
    load = mapping(record.get("load"))
    ceilings = [
        _bar(found[0], "limit" if _limits(found[0], record) else "ceiling", KINDS.get(kind, kind))
        for kind, found in _ceilings(record).items()
    ]
    groups = {
        "": [_bar(load, "load", str(record.get("device") or ""))] if load else [],
        "Ceilings: what this machine gives": ceilings,
        "Others that load the same tensors": [
            _bar(mapping(one), "peer") for one in items(record.get("contenders")) if mapping(one)
        ],
    }
    if not any(groups.values()):
        return ""
    caption = "The middle of all runs, each of which is a dot; the dashed line is the load."
    return f"<section><h2>How fast, and how fast it could be</h2>{bars(groups, caption)}</section>"


def _all(record: Mapping[str, Any]) -> str:
    """Every ceiling that was measured, where the bars show only one of its kind."""
    kinds = _ceilings(record)
    if not any(len(found) > 1 for found in kinds.values()):
        return ""
    groups = {
        KINDS.get(kind, kind): [
            _bar(one, "limit" if _limits(one, record) else "ceiling", _parameters(one))
            for one in found
        ]
        for kind, found in kinds.items()
    }
    total = sum(map(len, groups.values()))
    return (
        "<section><h2>All ceilings</h2>"
        f"<details><summary>Show the {total} that were measured</summary>"
        f"{bars(groups, 'By what they are of, the fastest first.')}</details></section>"
    )


def _parameters(ceiling: Mapping[str, Any]) -> str:
    given = dict(mapping(ceiling.get("params")))
    nbytes = number(ceiling.get("nbytes"))
    told = [f"{label(key)} {shown(key, value)}" for key, value in given.items()]
    return ", ".join([*told, *([f"{format_nbytes(nbytes)} moved"] if nbytes else [])])


# ---- time ----


def _time(record: Mapping[str, Any]) -> str:
    found = timeline(record)
    limit = mapping(record.get("limit"))
    picture = over_time(found, _gb_s(limit), str(limit.get("what") or "the limit"))
    if not picture:
        return ""
    told = [
        "Colours are work, greys are waiting; a share is of the time that the workers had. "
        "The thin lanes are the reads and copies that a worker has under way meanwhile."
    ]  # fmt: skip
    if found.left_out:
        told.append(f"{found.left_out} more workers are not drawn.")
    if found.lanes and len(found.lanes[0].shares["read"]) < COLUMNS:
        told.append("Coarser than it was measured: there are many workers.")
    return (
        "<section><h2>What happened in time</h2>"
        f'<p class="dim">{" ".join(told)}</p>{picture}</section>'
    )
