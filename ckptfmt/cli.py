"""The command line: each command parses, calls one library function, and prints.

stdout is data, stderr the rest. Exit 0 done, 1 failed, 2 misused.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.cli_batch import batch
from ckptfmt.cli_bench import bench
from ckptfmt.cli_devices import load, selftest
from ckptfmt.cli_doctor import doctor
from ckptfmt.errors import CkptError, OptionError
from ckptfmt.hub_address import HUBS
from ckptfmt.rendering import printable
from ckptfmt.terminal import JSON, Progress, checked_cast, count, say
from ckptfmt.units import format_nbytes, format_rate
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from ckptfmt.conversion import ConvertReport
    from ckptfmt.rendering import Node


class Commands(click.Group):
    """The one place where an expected failure becomes one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever reads our output has seen enough; click ends without a word
        except (CkptError, OSError) as error:
            if os.environ.get("CKPTFMT_TRACEBACK"):
                raise
            hint = getattr(error, "hint", None)
            say(f"ckptfmt: {error}" + (f" ({hint})" if hint else ""), err=True)
            ctx.exit(2 if isinstance(error, OptionError) else 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="ckptfmt")
def main() -> None:
    """Convert model checkpoints once, load them at the speed of the hardware."""


main.add_command(batch)
main.add_command(bench)
main.add_command(load)
main.add_command(selftest)
main.add_command(doctor)


@main.command()
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--dtype", default="keep", show_default=True, callback=checked_cast,
              help="Cast floating tensors of 16 bits and more: keep, bf16, fp16, fp32.",
              )  # fmt: skip
@click.option("--alignment", default="4KiB", show_default=True,
              help="Of every tensor: a power of two from 4KiB to 2MiB.")  # fmt: skip
@click.option("--partition-size", default="4000MiB", show_default=True,
              help="Limit of a file; a FAT card holds files below 4GiB.")  # fmt: skip
@click.option("--include", multiple=True, metavar="GLOB",
              help="Take only tensors whose name matches.")  # fmt: skip
@click.option("--exclude", multiple=True, metavar="GLOB",
              help="Leave out tensors whose name matches.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Threads; 4 if not given.")
@click.option("--force", is_flag=True,
              help="Replace a checkpoint; discard an unfinished conversion.")  # fmt: skip
@click.option("--resume", is_flag=True,
              help="Go on with an unfinished conversion, with --force too.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--from", "hub", type=click.Choice(list(HUBS)),
              help="SOURCE is ORG/NAME on this hub.")  # fmt: skip
@click.option("--revision", help="Of a repository: branch, tag or commit.")
@click.option("--token", help="To log in at the hub; else its client's own log-in counts.")
@click.option("--stream", is_flag=True,
              help="Convert a repository's files as they come, and keep none.")  # fmt: skip
@click.option("--tensor-parallel", type=click.IntRange(1), metavar="N",
              help="Cut tensors for N ranks, each of which can read its pieces alone; 1 joins "
              "what was cut.")  # fmt: skip
@click.option("--tensor-parallel-plan", type=click.Path(), metavar="FILE",
              help="Rules to cut by, as JSON; else the model's plan, by transformers.",
              )  # fmt: skip
@JSON
def convert(source: str, target: str, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Convert SOURCE, a folder or file of weights, to the checkpoint TARGET.

    SOURCE may be on a hub: ORG/NAME, hf://ORG/NAME or ms://ORG/NAME.

    Example: ckptfmt convert Qwen2.5-3B-Instruct qwen.ckpt --dtype fp16
    """
    from ckptfmt.conversion import convert as run  # noqa: PLC0415

    began = time.perf_counter()
    with Progress("converting") as progress:
        report = run(source, target, dry_run=dry_run, progress=progress, **options)
    seconds = time.perf_counter() - began
    for what, names in (("left out", report.left_out), ("filtered out", report.dropped)):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            say(f"{what}: {', '.join(map(printable, names[:8]))}{more}", err=True)
    if report.cutting is not None:
        for why, names in report.cutting.whole.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            listed = ", ".join(map(printable, names[:3]))
            say(f"shared whole, {printable(why)}: {len(names)}: {listed}{more}", err=True)
    if as_json:
        click.echo(json.dumps(_report_dict(report, seconds, dry_run)))
        return
    for line in _report_lines(report, seconds, dry_run):
        say(line)


def _report_dict(report: ConvertReport, seconds: float, dry_run: bool) -> dict[str, Any]:
    return {
        "path": report.path, "id": report.checkpoint_id or None, "dry_run": dry_run,
        "source_nbytes": report.source_nbytes, "nbytes": report.nbytes,
        "tensors": len(report.plan.tensors), "cast": report.cast,
        "partitions": [
            {"file": p.file, "nbytes": n}
            for p, n in zip(report.plan.partitions, report.plan.file_nbytes, strict=True)
        ],
        "sidecars": report.sidecars, "left_out": report.left_out, "dropped": report.dropped,
        "resumed": report.resumed, "seconds": seconds,
        "tensor_parallel": None if report.cutting is None else {
            "ranks": report.cutting.ranks, "cut": report.cutting.cut,
            "whole": {why: len(names) for why, names in report.cutting.whole.items()},
        },
    }  # fmt: skip


def _report_lines(report: ConvertReport, seconds: float, dry_run: bool) -> list[str]:
    sizes = report.plan.file_nbytes
    lines = [
        f"{len(report.plan.tensors)} tensors, {format_nbytes(report.source_nbytes)} -> "
        f"{format_nbytes(report.nbytes)}" + (f", {report.cast} cast" if report.cast else ""),
        f"{count(len(sizes), 'partition')}, {format_nbytes(sum(sizes))}; "
        f"{count(len(report.sidecars), 'other file')}",
    ]
    if report.cutting is not None:
        shared = len(report.cutting.cuts) - report.cutting.cut
        lines.append(
            f"cut {count(report.cutting.cut, 'tensor')} for {report.cutting.ranks} ranks, "
            f"{shared} shared whole"
        )
    if dry_run:
        lines += [f"  {p.file}  {format_nbytes(n)}"
                  for p, n in zip(report.plan.partitions, sizes, strict=True)]  # fmt: skip
        lines.append(f"would write {report.path}")
    else:
        taken_over = count(len(report.resumed), "partition")
        resumed = f", {taken_over} taken over" if report.resumed else ""
        rate = format_rate(report.nbytes, seconds)
        lines.append(f"wrote {report.path} in {seconds:.2f} s, {rate}{resumed}")
    return lines


@main.command()
@click.argument("path", type=click.Path())
@click.option("--tree", is_flag=True, help="Modules with their sizes.")
@click.option("--depth", type=click.IntRange(1), default=3, show_default=True, help="Of the tree.")
@JSON
def inspect(path: str, tree: bool, depth: int, as_json: bool) -> None:
    """Show tensors, dtypes, partitions and provenance of the checkpoint PATH."""
    from ckptfmt import rendering  # noqa: PLC0415
    from ckptfmt.plain_files import open_stored  # noqa: PLC0415

    files = open_stored(path)  # as it is stored, whoever's the tensors are
    files.close()
    index = files.index
    if as_json:
        click.echo(json.dumps(rendering.to_dict(index), ensure_ascii=False))
        return
    for label, text in rendering.summary(path, index):
        say(f"{label:<13} {text}")
    click.echo()
    if tree:
        _print_tree(rendering.module_tree(index), depth)
        return
    rows = [("tensor", "dtype", "shape", "size", "partition:offset"), *rendering.tensor_rows(index)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[4]]).rstrip())


def _print_tree(node: Node, depth: int, indent: int = 0) -> None:
    for child in node.children.values():
        below = f"{child.tensors} tensors, " if child.children else ""
        name = printable(child.name)
        click.echo(f"{'  ' * indent}{name}  {below}{format_nbytes(child.nbytes)}")
        if indent + 1 < depth:
            _print_tree(child, depth, indent + 1)


@main.command()
@click.argument("path", type=click.Path())
@click.option("--against", type=click.Path(), metavar="SOURCE",
              help="Compare with the source, tensor by tensor, bit for bit.")  # fmt: skip
@JSON
def verify(path: str, against: str | None, as_json: bool) -> None:
    """Check every byte of the checkpoint PATH; exit 1 if anything is wrong."""
    from ckptfmt.verification import verify as run  # noqa: PLC0415

    with Progress("verifying") as progress:
        report = run(path, against=against, progress=progress)
    if as_json:
        problems = [
            {"file": p.file, "message": p.message, "tensor": p.tensor, "offset": p.offset}
            for p in report.problems
        ]
        click.echo(json.dumps({
            "path": path, "ok": report.ok, "files": report.files, "tensors": report.tensors,
            "nbytes": report.nbytes, "compared": report.compared, "seconds": report.seconds,
            "problems": problems,
        }))  # fmt: skip
    elif report.ok:
        compared = f"; {report.compared} tensors equal {against}" if against else ""
        say(
            f"{path}: {report.files} files, {report.tensors} tensors, "
            f"{format_nbytes(report.nbytes)} verified in {report.seconds:.2f} s{compared}"
        )
    if not report.ok:
        for problem in report.problems:
            say(f"ckptfmt: {path}: {problem}", err=True)
        sys.exit(1)


@main.command()
@click.argument("path", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--to", type=click.Choice(["safetensors", "sllm"]), default="safetensors",
              show_default=True, help="The format to write.")  # fmt: skip
@click.option("--shard-size", default="5GB", show_default=True,
              help="Bytes of tensors in one file.")  # fmt: skip
@JSON
def export(path: str, target: str, to: str, shard_size: str, as_json: bool) -> None:
    """Write the checkpoint PATH back to the folder TARGET, bit for bit."""
    from ckptfmt.exporting import export as run  # noqa: PLC0415

    with Progress("exporting") as progress:
        files = run(path, target, to=to, shard_size=shard_size, progress=progress)
    if as_json:
        click.echo(json.dumps({"path": target, "files": files}))
        return
    say(f"wrote {count(len(files), 'file')} to {target}")
