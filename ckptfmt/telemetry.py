"""What a program can follow: log lines under the name ``ckptfmt``, and spans of OpenTelemetry.

Nothing is written anywhere unless the program says where to: by ``logging``, by a tracer provider.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

from ckptfmt.stats import LoadStats
from ckptfmt.units import format_nbytes
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("ckptfmt")
log.addHandler(logging.NullHandler())  # a library leaves it to the program what is shown

#: The program's wish for a tracer provider that the API loads at its first use.
PROVIDER = "OTEL_PYTHON_TRACER_PROVIDER"

_under_way: ContextVar[Span | None] = ContextVar("ckptfmt_span", default=None)


@cache
def warn_once(text: str) -> None:
    """Log a warning that holds for the process; each load's statistics say it again."""
    log.warning(text)


def tell_load(path: str, stats: LoadStats, doing: str = "loaded") -> None:
    """Log what a load was like, in one line; the record's ``stats`` has all figures."""
    if log.isEnabledFor(logging.INFO):
        log.info(
            "%s %s of %s to %s in %.3f s: %.2f GB/s, %s, %d threads, %s; most of the time: %s",
            doing, format_nbytes(stats.nbytes), path, ", ".join(stats.devices), stats.seconds,
            stats.gb_s, stats.engine, stats.threads, _ways(stats), stats.bottleneck,
            extra={"stats": stats.to_dict()},
        )  # fmt: skip


def _ways(stats: LoadStats) -> str:
    """How the files were read, and what then became of the bytes."""
    ways = []
    for way in ("direct", "buffered", "mapped"):
        nbytes = sum(getattr(file, f"{way}_nbytes") for file in stats.files.values())
        if nbytes:
            ways.append(f"{format_nbytes(nbytes)} {way}")
    if stats.unverified:
        ways.append(f"unverified: {stats.unverified}")
    return ", ".join([*ways, f"staging {stats.staging}"])


class Span:
    """A piece of work that is being followed, or nothing at all.

    Attributes
    ----------
    name : str
        Empty if nobody follows it.
    otel : opentelemetry.trace.Span or None
        It.
    """

    def __init__(self, name: str = "", span: Any = None) -> None:
        self.name = name
        self.otel = span

    def set(self, **attributes: object) -> None:
        """Add attributes, each ``ckptfmt.NAME``."""
        if self.otel is not None:
            for name, value in attributes.items():
                if isinstance(value, str):  # a path may hold bytes that are no text
                    value = value.encode(errors="backslashreplace").decode()  # noqa: PLW2901
                self.otel.set_attribute(f"ckptfmt.{name}", value)

    def tell(self, *parts: LoadStats) -> None:
        """Add the statistics of what was read at the same time, those of files as sums."""
        if self.otel is None or not parts:
            return
        stats = reduce(LoadStats.beside, parts)
        found = stats.to_dict()
        del found["files"]
        for way in ("direct_nbytes", "buffered_nbytes", "mapped_nbytes"):
            found[way] = sum(getattr(file, way) for file in stats.files.values())
        if not stats.nbytes:  # a stage knows what it reads, not which tensors it is for
            del found["nbytes"], found["gb_s"]
        self.set(**found)

    def fail(self, error: BaseException) -> None:
        """Note that it failed, and how."""
        if self.otel is not None:
            trace = _api()
            self.otel.record_exception(error)
            status = trace.Status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
            self.otel.set_status(status)


_NOBODY = Span()


@contextmanager
def span(name: str, **attributes: object) -> Iterator[Span]:
    """Follow what is done inside: a span of OpenTelemetry, below the one that is current.

    Inside another of the same name it is that one: ``ckptfmt.load`` opens a checkpoint and loads
    from it, which is one load.

    Parameters
    ----------
    name : str
        ``load``, or a stage of it: ``ckptfmt.`` comes before it.
    **attributes
        As for :meth:`Span.set`.
    """
    trace, outer = _api(), _under_way.get()
    if trace is None:
        yield _NOBODY
    elif outer is not None and outer.name == name:
        outer.set(**attributes)
        yield outer
    else:
        with _ended(_started(trace, name, attributes)) as mine, trace.use_span(
            mine.otel, record_exception=False, set_status_on_exception=False
        ):
            token = _under_way.set(mine)
            try:
                yield mine
            finally:
                _under_way.reset(token)


@contextmanager
def span_aside(name: str, **attributes: object) -> Iterator[tuple[Span, Context]]:
    """As `span`, for a generator: what its caller does between two items is no part of it.

    Yields
    ------
    (Span, Context)
        The span, and a context in which it is the current one, for the work of other threads.
    """
    trace, context = _api(), copy_context()
    if trace is None:
        yield _NOBODY, context
        return
    with _ended(_started(trace, name, attributes)) as mine:
        from opentelemetry.context import attach  # noqa: PLC0415

        context.run(attach, trace.set_span_in_context(mine.otel))
        context.run(_under_way.set, mine)
        yield mine, context


def _started(trace: Any, name: str, attributes: dict[str, object]) -> Span:
    mine = Span(name, trace.get_tracer("ckptfmt", VERSION).start_span(f"ckptfmt.{name}"))
    mine.set(**attributes)
    return mine


@contextmanager
def _ended(mine: Span) -> Iterator[Span]:
    """End it, whatever comes: Ctrl-C, which the API's own handling passes over, too."""
    try:
        yield mine
    except GeneratorExit:  # the caller has seen enough
        raise
    except BaseException as error:
        mine.fail(error)
        raise
    finally:
        mine.otel.end()


def _api() -> Any:
    """OpenTelemetry's API, if the program has any use for it; None else.

    A program that records spans has imported it, or has named a provider in the environment. For
    all others it is never imported, so it costs them nothing.
    """
    if "opentelemetry.trace" not in sys.modules and not os.environ.get(PROVIDER):
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415
    except ImportError as error:
        warn_once(f"{PROVIDER} is set, but there is no OpenTelemetry to follow loads: {error}")
        return None
    return trace
