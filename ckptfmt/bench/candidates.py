"""Settings to be tried beside those of the load, one changed at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptfmt import layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.bench.pipeline import Way
    from ckptfmt.options import LoadOptions

DEPTHS = (1, 4, 8, 16, 32)
OPS_NBYTES = tuple(n * layout.BLOCK_NBYTES for n in (1, 2, 4, 7))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting changed.

    Attributes
    ----------
    setting, value : str
        Which, and to what; empty for the settings as they are.
    options : LoadOptions
        All settings.
    way : Way
        What they come to.
    """

    setting: str
    value: str
    options: LoadOptions
    way: Way

    @property
    def environment(self) -> str:
        """What to set to get it everywhere; empty for what is an argument only."""
        if self.setting in ("", "verify"):
            return ""
        return f"CKPTFMT_{self.setting.upper()}={self.value}"

    @property
    def spelling(self) -> str:
        """How a person asks for it."""
        return self.environment or "verify=False (--no-verify)"

    @property
    def reads(self) -> tuple[object, ...]:
        """What decides about the reads alone."""
        way = self.way
        return (way.direct, way.ring, way.threads, way.depth, way.op_nbytes)

    def alone(self) -> Candidate:
        """The same reads by one thread, where a thread waits for its reads; else just these."""
        if self.way.overlaps and not self.way.waits_for_copies:
            return self
        return replace(
            self, options=replace(self.options, threads=1), way=replace(self.way, threads=1)
        )


def thread_counts(processors: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: powers of two, up to twice as many as processors."""
    counts = [1]
    while counts[-1] < min(2 * processors, 16):
        counts.append(2 * counts[-1])
    return tuple(counts)


def candidates(
    options: LoadOptions, way: Way, *, processors: int, can_ring: bool, can_direct: bool
) -> list[Candidate]:
    """Everything to be tried, the settings as they are first.

    Parameters
    ----------
    options : LoadOptions
        As they are.
    way : Way
        What they came to.
    processors : int
        That threads may run on.
    can_ring, can_direct : bool
        Whether io_uring and direct reads can be had here.
    """
    base = replace(options, threads=way.threads)
    found = [Candidate("", "", options, way)]
    for setting, value, changed, new in _changes(
        base, way, processors=processors, can_ring=can_ring, can_direct=can_direct
    ):
        if new != way:
            found.append(Candidate(setting, value, changed, new))
    return found


def _changes(
    base: LoadOptions, way: Way, *, processors: int, can_ring: bool, can_direct: bool
) -> Iterator[tuple[str, str, LoadOptions, Way]]:
    for n in thread_counts(processors):
        yield "threads", str(n), replace(base, threads=n), replace(way, threads=n)
    if way.overlaps:
        for n in DEPTHS:
            yield "depth", str(n), replace(base, depth=n), replace(way, depth=n)
    for n in OPS_NBYTES:
        value = f"{n >> 20}MiB"
        yield "op_nbytes", value, replace(base, op_nbytes=n), replace(way, op_nbytes=n)
    if way.direct:
        buffered = replace(way, direct=False, ring=False, depth=1)
        yield "reads", "buffered", replace(base, reads="buffered"), buffered
        if way.ring:
            yield "io", "pread", replace(base, io="pread"), replace(way, ring=False, depth=1)
        elif can_ring:
            ringed = replace(way, ring=True, depth=base.depth)
            yield "io", "io_uring", replace(base, io="io_uring"), ringed
    elif can_direct:
        ring = can_ring and base.io != "pread"
        direct = replace(way, direct=True, ring=ring, depth=base.depth if ring else 1)
        yield "reads", "direct", replace(base, reads="direct"), direct
    if way.waits_for_copies and base.sync_copy:
        yield "sync_copy", "0", replace(base, sync_copy=False), replace(way, waits_for_copies=False)
    if way.verify:
        yield "verify", "off", base, replace(way, verify=False)
