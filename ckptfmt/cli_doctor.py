"""The command ``doctor``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from ckptfmt.terminal import JSON, count, stdout_kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.findings import Finding, Report

COLORS = {"FAIL": "red", "WARN": "yellow", "OK": "green", "SKIP": "bright_black"}


@click.command()
@click.option("--device", metavar="DEVICE",
              help="cpu, npu:N or cuda:N; what the machine seems to be for if not given.",
              )  # fmt: skip
@click.option("--for", "checkpoint", type=click.Path(), metavar="CHECKPOINT",
              help="What is to be loaded: its size against free memory, its disk.")  # fmt: skip
@click.option("--root", type=click.Path(), metavar="FOLDER",
              help="Look at a tree of files that describes another machine.")  # fmt: skip
@JSON
def doctor(device: str | None, checkpoint: str | None, root: str | None, as_json: bool) -> None:
    """Say why it does not work on this machine, or not well, and what mends it.

    Nothing is changed and nothing is sent anywhere. Exit 0 if nothing fails that ckptfmt needs.

    Example: ckptfmt doctor --device npu:0 --for qwen.ckpt
    """
    from ckptfmt.doctor.examination import run  # noqa: PLC0415

    with stdout_kept():
        report = run(device, root=root, checkpoint=checkpoint)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        for line in _lines(report):
            click.echo(line)
    if not report.is_ok:
        sys.exit(1)


def _lines(report: Report) -> Iterator[str]:
    """A line for each finding, the fix below it; what was skipped in one line for each reason."""
    where = f" as {report.root} describes it" if report.root else ""
    yield _printed(f"looked at for {report.device} ({report.device_reason}){where}")
    shown = [f for f in report.findings if f.level != "SKIP"]
    width = max((len(f.check) for f in shown), default=0)
    for finding in shown:
        yield from _finding_lines(finding, width)
    reasons: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.level == "SKIP":
            reasons.setdefault(finding.found, []).append(finding.check)
    for reason, names in reasons.items():
        few = ", ".join(names) if len(names) <= 3 else count(len(names), "check")
        yield f"{_level('SKIP')}  {_printed(f'{few}: {reason}')}"
    failing = report.count("FAIL")
    yield _printed(
        f"{failing} FAIL, {report.count('WARN')} WARN, {report.count('OK')} OK in "
        f"{report.seconds:.1f} s"
        + ("; what fails is not ckptfmt's" if failing and report.is_ok else "")
    )


def _finding_lines(finding: Finding, width: int) -> Iterator[str]:
    whose = f" [{finding.concerns}]" if finding.concerns != "ckptfmt" else ""
    text = f"{finding.check:<{width}}  {_printed(finding.found + whose)}"
    yield f"{_level(finding.level)}  {text}"
    if finding.fix:
        yield f"{'':4}  {'':{width}}  -> {_printed(finding.fix)}"


def _level(level: str) -> str:
    return click.style(f"{level:<4}", fg=COLORS[level])


def _printed(text: str) -> str:
    from ckptfmt.rendering import printable  # noqa: PLC0415

    return printable(" ".join(text.split()))
