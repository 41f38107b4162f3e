"""The command for many conversions: ``batch``."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from ckptfmt.errors import OptionError, failing_as
from ckptfmt.terminal import JSON, say, stdout_kept
from ckptfmt.units import format_nbytes, parse_nbytes

if TYPE_CHECKING:
    from ckptfmt.batch_report import Result


@click.command()
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False))
@click.option("--jobs", type=click.IntRange(1), metavar="N",
              help="Conversions at a time; 2 if not given, with ray one for each processor.",
              )  # fmt: skip
@click.option("--memory", metavar="SIZE",
              help="For all jobs that run at a time; what is available if not given.")  # fmt: skip
@click.option("--disk", metavar="SIZE",
              help="For all targets of this run; what is free if not given.")  # fmt: skip
@click.option("--item", "numbers", type=click.IntRange(1), multiple=True, metavar="N",
              help="Only this item, counted from 1. May be repeated.")  # fmt: skip
@click.option("--verify", is_flag=True,
              help="Check all bytes, of what is there already and of what is made.")  # fmt: skip
@click.option("--report", type=click.Path(), metavar="FILE",
              help="JSON lines, one for each item that ends; MANIFEST.report.jsonl if not given.",
              )  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="This machine, or a Ray cluster.")  # fmt: skip
@click.option("--address", metavar="ADDRESS",
              help="Of the Ray cluster, HOST:PORT or ray://…; the one this machine is in if not "
              "given.")  # fmt: skip
@JSON
def batch(
    manifest: str,
    jobs: int | None,
    memory: str | None,
    disk: str | None,
    numbers: tuple[int, ...],
    verify: bool,
    report: str | None,
    engine: str,
    address: str | None,
    as_json: bool,
) -> None:
    """Convert all items of MANIFEST, YAML or JSON lines; skip what is done, go on after failures.

    Exit 1 if an item failed. Run it again to do what is left.
    """
    from ckptfmt.batch import Batch, Ledger  # noqa: PLC0415
    from ckptfmt.batch_report import ReportFile  # noqa: PLC0415
    from ckptfmt.batch_table import BatchTable  # noqa: PLC0415
    from ckptfmt.manifest import choose, parse  # noqa: PLC0415

    if engine == "ray" and (memory or disk):
        raise OptionError(
            "--memory and --disk are for one machine",
            hint="on a cluster --jobs bounds how many run, and Ray where",
        )
    if engine != "ray" and address:
        raise OptionError("--address is for --engine ray")
    folder = os.path.dirname(os.path.abspath(manifest))
    items = choose(parse(_read(manifest), path=manifest, folder=folder), numbers)
    report_path = report or f"{manifest}.report.jsonl"
    file = ReportFile(report_path)
    try:
        with stdout_kept(), BatchTable(len(items)) as table:
            ledger = Ledger(items, folder=folder, verify=verify, report=file, listener=table)
            if engine == "ray":
                from ckptfmt.batch_ray import RayBatch  # noqa: PLC0415

                results = RayBatch(ledger, jobs=jobs, address=address or "auto").run()
            else:
                from ckptfmt.budget import Budget  # noqa: PLC0415
                from ckptfmt.pool import available_nbytes  # noqa: PLC0415

                budget = Budget(
                    parse_nbytes(memory) if memory else available_nbytes(),
                    parse_nbytes(disk) if disk else None,
                )
                results = Batch(ledger, jobs=jobs or 2, budget=budget).run()
    finally:
        file.close()
    _tell(results, report_path, as_json)
    if any(result.outcome == "failed" for result in results):
        sys.exit(1)


def _read(path: str) -> str:
    with failing_as(path, "cannot be read"), open(path, encoding="utf-8") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise OptionError(f"{path}: is no text in UTF-8: {error}") from error


def _tell(results: list[Result], report: str, as_json: bool) -> None:
    counts = {
        outcome: sum(result.outcome == outcome for result in results)
        for outcome in ("done", "skipped", "failed")
    }
    if as_json:
        import msgspec  # noqa: PLC0415

        in_order = sorted(results, key=lambda result: result.item)
        items = msgspec.to_builtins(in_order)
        click.echo(json.dumps({**counts, "report": report, "items": items}, ensure_ascii=False))
        return
    nbytes = sum(result.nbytes for result in results if result.outcome == "done")
    say(
        f"{counts['done']} done, {format_nbytes(nbytes)}; {counts['skipped']} done before; "
        f"{counts['failed']} failed; report in {report}"
    )
