"""The command ``bench``."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.errors import OptionError, failing_as
from ckptfmt.terminal import JSON, Steps, say, stdout_kept
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Characters of the longest bar.
BAR = 30
#: Settings that are told of, unless JSON is wanted.
GAINS = 6


@click.command()
@click.argument("path", type=click.Path())
@click.option("--device", default="cpu", show_default=True, help="cpu, npu:N or cuda:N.")
@click.option("--cold", "state", flag_value="cold", help="Nothing of the files in the page cache.")
@click.option("--warm", "state", flag_value="warm",
              help="All of them in the page cache.  [default: as they are found]")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True,
              help="Rounds; each measures everything once.")  # fmt: skip
@click.option("--vs", metavar="LOADER,…",
              help="Race against safetensors, safetensors-pread, safetensors-clone, runai, "
              "fastsafetensors.")  # fmt: skip
@click.option("--source", type=click.Path(), metavar="FOLDER",
              help="The same tensors as safetensors, for those; exported beside PATH if not given.",
              )  # fmt: skip
@click.option("--no-verify", is_flag=True, help="Load without comparing checksums.")
@click.option("--tune", is_flag=True, help="Load with the settings that should gain, too.")
@click.option("--report", type=click.Path(), metavar="FILE.html",
              help="Write a page with pictures.")  # fmt: skip
@JSON
def bench(
    path: str, vs: str | None, no_verify: bool, report: str | None, as_json: bool, **given: Any
) -> None:
    """Measure a load of PATH beside what limits it: disk, memory, checksums, link to the device.

    It says which of them does, how much of it is reached, and what other settings would gain.

    Example: ckptfmt bench qwen.ckpt --cold --vs safetensors --report bench.html
    """
    if report is not None:
        folder = os.path.dirname(os.path.abspath(report))
        if not os.path.isdir(folder):
            raise OptionError(f"--report {report}: there is no folder {folder}")
        if os.path.isdir(report) or not os.access(folder, os.W_OK):
            raise OptionError(f"--report {report}: cannot be written there")
    from ckptfmt.bench.run import run  # noqa: PLC0415

    names = [name for name in (vs or "").split(",") if name]
    with _ended_by_signals(), stdout_kept(), Steps("the first load") as steps:
        found = run(path, vs=names, verify=not no_verify, listener=steps, **given)
    if report is not None:
        from ckptfmt.bench.page import render  # noqa: PLC0415

        with failing_as(report, "the report cannot be written"), open(
            report, "w", encoding="utf-8"
        ) as stream:
            stream.write(render(found))
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _lines(found):
        say(line)
    if report is not None:
        say(f"wrote {report}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this as Ctrl-C does: what was exported is removed."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    load, limit, checkpoint = found["load"], found["limit"], found["checkpoint"]
    yield (
        f"{found['path']}: {format_nbytes(checkpoint['nbytes'])}, {checkpoint['tensors']} tensors, "
        f"to {found['device']}, {found['state']}, medians of {found['repeat']}"
    )
    yield (
        f"limited by {limit['what']}: {load['gb_s']:.2f} GB/s is {limit['reached']:.0%} of "
        f"{limit['gb_s']:.2f} GB/s"
    )
    yield f"  {limit['advice']}"
    for note in found["notes"]:
        yield f"  note: {note}"
    bars = [load, *found["contenders"], *sorted(found["ceilings"], key=lambda c: -c["gb_s"])]
    most = max(bar["gb_s"] for bar in bars) or 1.0
    for bar in bars:
        length = max(1, round(BAR * bar["gb_s"] / most))
        mark = " <- the limit" if bar.get("limits") else ""
        yield f"{bar['gb_s']:8.2f} GB/s  {'#' * length:<{BAR}}  {bar['what']}{mark}"
    told_of = [g for g in found["gains"] if g["predicted_gain"] >= 0.01 or g["measured_gain"]]
    for gain in told_of[:GAINS]:
        measured = gain["measured_gain"]
        told = "" if measured is None else f", measured {measured:+.0%}"
        yield f"{gain['predicted_gain']:+8.0%} predicted{told}  {gain['environment']}"
    best = found["best"]
    if best is not None:
        names = " ".join(f"{name}={value}" for name, value in best["environment"].items())
        yield f"best: {names} ({best['gain']:+.0%})" if names else "best: the settings as they are"
