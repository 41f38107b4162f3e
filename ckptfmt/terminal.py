"""What the commands share: lines on the terminal, progress on stderr, stdout kept for data."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.dtypes import cast_target
from ckptfmt.errors import OptionError, UnsupportedDtypeError
from ckptfmt.rendering import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever names are in it."""
    click.echo(printable(" ".join(text.splitlines())), err=err)


def checked_cast(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """A cast that does not exist is a misuse, as any other value that is not allowed."""
    try:
        cast_target(value)
    except UnsupportedDtypeError as error:
        raise OptionError(str(error), hint=error.hint) from error
    return value


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def count(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


class _Bar:
    """A bar on stderr if that is a terminal; nothing otherwise."""

    #: Columns of rich's progress, by name.
    columns: tuple[str, ...]

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress  # noqa: PLC0415
            from rich.console import Console  # noqa: PLC0415

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                *(getattr(progress, name)() for name in self.columns),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


class Progress(_Bar):
    """Bytes done, rate and time left."""

    columns = ("BarColumn", "DownloadColumn", "TransferSpeedColumn", "TimeRemainingColumn")

    def __call__(self, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)


class Steps(_Bar):
    """Which of some steps is under way, and time left."""

    columns = ("BarColumn", "MofNCompleteColumn", "TimeRemainingColumn")

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=what, completed=done, total=total)


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Send what libraries print meanwhile to stderr.

    torch_npu and CANN print warnings, and with ASCEND_SLOG_PRINT_TO_STDOUT whole logs, from Python
    and from C; stdout is data.
    """
    try:
        is_real = sys.stdout.fileno() == 1
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        is_real = False
    if not is_real:
        with redirect_stdout(sys.stderr):
            yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_c()
        os.dup2(saved, 1)
        os.close(saved)


def _flush_c() -> None:
    """Write out what C code has printed: it would come later, to wherever 1 leads then."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).fflush(None)
