"""The commands that reach devices: ``load`` and ``selftest``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.errors import OptionError
from ckptfmt.terminal import JSON, Progress, checked_cast, count, say, stdout_kept
from ckptfmt.units import format_nbytes, format_rate, parse_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.machine import GpuFacts, NpuFacts
    from ckptfmt.selftest_report import Step
    from ckptfmt.trial import Trial


@click.command()
@click.argument("path", type=click.Path())
@click.option("--device", "devices", multiple=True, metavar="[MODULE=]DEVICE",
              help="cpu, npu:N, cuda:N, or auto for all devices; MODULE=npu:N sends a part of the "
              "model there. May be repeated.  [default: cpu]")  # fmt: skip
@click.option("--no-split", multiple=True, metavar="GLOB",
              help="With auto: modules that stay on one device, beside the layers.")  # fmt: skip
@click.option("--names", multiple=True, metavar="GLOB", help="Only these tensors.")
@click.option("--rank", type=click.IntRange(0), metavar="R",
              help="Only what this rank has, of a checkpoint that was cut for ranks.")  # fmt: skip
@click.option("--tensor-parallel", type=click.IntRange(1), metavar="N",
              help="Of so many ranks; of as many as it was cut for, if not given.")  # fmt: skip
@click.option("--dtype", default="keep", show_default=True, callback=checked_cast,
              help="Cast: keep, bf16, fp16, fp32.")  # fmt: skip
@click.option("--no-verify", is_flag=True, help="Do not compare checksums.")
@click.option("--mmap", is_flag=True, help="Map the files instead of reading them.")
@click.option("--framework", type=click.Choice(["torch", "numpy"]), default="torch",
              show_default=True, help="What the tensors are made of.")  # fmt: skip
@click.option("--trace", type=click.Path(), metavar="FILE",
              help="Write what the workers did, for ui.perfetto.dev.")  # fmt: skip
@JSON
def load(
    path: str, devices: tuple[str, ...], no_verify: bool, as_json: bool, dtype: str, **options: Any
) -> None:
    """Load the checkpoint PATH, say how fast that was and what it waited for, and drop it.

    Examples: ckptfmt load qwen.ckpt --device npu:0

    ckptfmt load qwen.ckpt --device npu:0 --device model.layers.1=npu:1
    """
    device = device_of(devices)
    from ckptfmt.trial import run  # noqa: PLC0415

    options["names"] = options["names"] or None
    with stdout_kept(), Progress("loading") as progress:
        trial = run(
            path, device=device, dtype=dtype, verify=False if no_verify else None,
            progress=progress, **options,
        )  # fmt: skip
    for warning in trial.warnings:
        say(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(trial.to_dict()))
        return
    for line in _load_lines(trial):
        say(line)


def device_of(values: tuple[str, ...]) -> str | dict[str, str]:
    """What ``--device`` means: one device, or devices by module, ``""`` for the rest.

    Raises
    ------
    OptionError
        Two devices for the same tensors.
    """
    devices: dict[str, str] = {}
    for value in values or ("cpu",):
        module, _, device = value.rpartition("=")
        if module in devices:
            whose = f"module {module!r}" if module else "what no MODULE= names"
            raise OptionError(
                f"--device {value}: {devices[module]} is there already for {whose}",
                hint="--device MODULE=npu:N sends a part of the model to another device",
            )
        devices[module] = device
    if set(devices) == {""}:
        return devices[""]
    if "auto" in devices.values():
        raise OptionError("--device auto places every module, and goes with no other")
    return devices


def _load_lines(trial: Trial) -> Iterator[str]:
    stats = trial.stats
    yield (
        f"{count(trial.tensors, 'tensor')}, {format_nbytes(stats.nbytes)} "
        f"in {stats.seconds:.3f} s, {format_rate(stats.nbytes, stats.seconds)}; "
        + (f"unverified: {stats.unverified}" if stats.unverified
           else f"{format_nbytes(stats.verified_nbytes)} verified")
    )
    note = f" ({stats.engine_reason})" if stats.engine_reason else ""
    yield f"engine {stats.engine}{note}, {stats.threads} threads, limited by {stats.bottleneck}"
    if trial.devices:
        yield f"staging {stats.staging}"
        yield f"device start-up {stats.device_start_seconds:.2f} s, not counted above"
    for device in trial.devices:
        yield _device_line(device, trial.free_after_nbytes[device.name])
    for file, how in stats.files.items():
        yield (
            f"  {file}: direct {format_nbytes(how.direct_nbytes)}, "
            f"buffered {format_nbytes(how.buffered_nbytes)}, "
            f"mapped {format_nbytes(how.mapped_nbytes)}: {how.reason}"
        )
    if trial.trace is not None:
        yield f"wrote {trial.trace}: open it at ui.perfetto.dev"


def _device_line(device: NpuFacts | GpuFacts, free_after: int) -> str:
    return (
        f"{device.name} is {_what_it_is(device)}; {format_nbytes(device.free_nbytes)} of "
        f"{format_nbytes(device.total_nbytes)} free before, {format_nbytes(free_after)} after"
    )


def _what_it_is(device: NpuFacts | GpuFacts) -> str:
    from ckptfmt.machine import GpuFacts  # noqa: PLC0415

    if isinstance(device, GpuFacts):
        return f"a {device.model}, CUDA {device.runtime}, driver for {device.driver}"
    return (
        f"physical device {device.physical}: {device.soc}, {device.run_mode} mode, "
        f"CANN {device.cann or 'unknown'}, driver {device.driver or 'unknown'}"
    )


@click.command()
@click.argument("path", type=click.Path(), required=False)
@click.option("--device", default="npu:0", show_default=True, help="The NPU to test.")
@click.option("--against", type=click.Path(), metavar="SOURCE",
              help="Compare PATH with its source first, bit for bit.")  # fmt: skip
@click.option("--folder", type=click.Path(), metavar="FOLDER",
              help="Where a checkpoint to test with is made, if there is no PATH: on the disk to "
              "be tested; TMPDIR or /tmp if not given.")  # fmt: skip
@click.option("--size", default="1GiB", show_default=True, help="Of that checkpoint.")
@click.option("--repeats", type=click.IntRange(0), default=100, show_default=True,
              help="Loads into memory that has just been used.")  # fmt: skip
def selftest(
    path: str | None, device: str, against: str | None, folder: str | None, size: str, repeats: int
) -> None:
    """Prove on this machine that loads to an NPU bring the right bytes, in every way there is.

    Without PATH it makes a checkpoint of its own and removes it afterwards. The steps are told on
    stderr, the report is JSON on stdout. Exit 0 if nothing failed.
    """
    nbytes = parse_nbytes(size)
    from ckptfmt import selftest as tests  # noqa: PLC0415

    with stdout_kept():
        report = tests.run(
            device, path, against=against, folder=folder, nbytes=nbytes, repeats=repeats,
            listener=_Lines(),
        )  # fmt: skip
    click.echo(json.dumps(report.to_dict(), indent=1))
    if not report.ok:
        sys.exit(1)


class _Lines:
    """Tells the steps of a self-test: one line for each, and a bar meanwhile."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def begin(self, name: str) -> None:
        self._bar = Progress(name)
        self._bar.__enter__()

    def progress(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar(done, total)

    def end(self, step: Step) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
        text = f"{step.outcome:<11}  {step.name}"
        say(f"{text}: {step.message}" if step.message else text, err=True)
