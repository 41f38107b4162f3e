"""Measurements taken in turn, so that what a shared machine does meanwhile falls on all of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptfmt.bench.raw_reads import Sample

    #: Called with the name of what comes next, how many are done, and how many there are.
    Listener = Callable[[str, int, int], None]


@dataclass(slots=True)
class Measurement:
    """One thing to measure.

    Attributes
    ----------
    id, what, kind : str
        For programs, for a person, and of which sort: ``disk``, ``cache``, ``memory``,
        ``checksum``, ``link``, ``load`` or ``contender``.
    run : callable
        Measures once.
    reads_files : bool
        Whether the page cache has to be brought to its state before.
    params : dict
        What distinguishes it from others of its kind.
    samples : list of Sample
        What was found, by round.
    """

    id: str
    what: str
    kind: str
    run: Callable[[], Sample]
    reads_files: bool = True
    params: dict[str, object] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def gb_s(self) -> float:
        """The rate of the median of seconds for a byte."""
        return 1 / self.median() / 1e9

    def median(self, field_name: str = "seconds") -> float:
        """Of seconds (or processor seconds) for a byte."""
        return statistics.median(float(getattr(s, field_name)) / s.nbytes for s in self.samples)


def measure(
    measurements: Sequence[Measurement],
    rounds: int,
    prepare: Callable[[Measurement], None],
    listener: Listener | None = None,
) -> None:
    """Take each measurement once a round, the order reversed every other round.

    Parameters
    ----------
    measurements : sequence of Measurement
        Their samples are added to.
    rounds : int
        How many.
    prepare : callable
        Called before each, outside of what is timed.
    listener : callable, optional
        Told of the progress.
    """
    total, done = rounds * len(measurements), 0
    for number in range(rounds):
        for one in reversed(measurements) if number % 2 else measurements:
            if listener is not None:
                listener(one.what, done, total)
            prepare(one)
            one.samples.append(one.run())
            done += 1
