"""How a batch is told: a live table on a terminal, a line for each item otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ckptfmt.rendering import printable
from ckptfmt.terminal import say
from ckptfmt.units import format_nbytes, format_rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ckptfmt.batch import Running
    from ckptfmt.batch_report import Result

#: Messages of one item that are shown; its record in the report has more.
SHOWN = 5


class BatchTable:
    """Tells on stderr. Use as a context manager.

    Parameters
    ----------
    total : int
        Items in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts = {"done": 0, "skipped": 0, "failed": 0, "stopped": 0}
        self._live: Any = None

    def __enter__(self) -> BatchTable:
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415
            from rich.live import Live  # noqa: PLC0415

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, running: Sequence[Running]) -> None:
        """Draw the table anew."""
        if self._live is not None:
            self._live.update(self._table(running), refresh=True)

    def end(self, result: Result) -> None:
        """Tell of an item that has ended, above the table."""
        self.counts[result.outcome] += 1
        count = sum(self.counts.values())
        lines = [f"[{count}/{self.total}] {ending(result)}"]
        lines += [f"  {result.target}: {text}" for text in result.messages[-SHOWN:]]
        for line in lines:
            if self._live is None:
                say(line, err=True)
            else:
                text = printable(" ".join(line.splitlines()))
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self, running: Sequence[Running]) -> Any:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        ended = sum(self.counts.values())
        parts = [f"{ended} of {self.total} ended"]
        parts += [f"{number} {word}" for word, number in self.counts.items() if number]
        table = Table("item", "target", "", "", "bytes", "rate", title=", ".join(parts))
        for job in running:
            rate = format_rate(job.done, job.seconds) if job.done else ""
            table.add_row(
                str(job.item.number), Text(printable(job.item.target), overflow="ellipsis"),
                job.state, ProgressBar(total=max(job.total, 1), completed=job.done, width=20),
                f"{format_nbytes(job.done)} / {format_nbytes(job.total)}" if job.total else "",
                rate,
            )  # fmt: skip
        return table


def ending(result: Result) -> str:
    """What became of an item, in a line."""
    if result.error is not None:
        hint = f" ({result.error.hint})" if result.error.hint else ""
        return f"{result.target}: failed: {result.error.message}{hint}"
    if result.outcome == "done":
        taken = f", {result.resumed} partitions taken over" if result.resumed else ""
        rate = format_rate(result.nbytes, result.seconds)
        return (
            f"{result.target}: done, {format_nbytes(result.nbytes)} in {result.seconds:.2f} s, "
            f"{rate}{taken}"
        )
    words = {"skipped": "was done before", "stopped": "stopped; the next run goes on with it"}
    return f"{result.target}: {words[result.outcome]}"
