"""How long a load takes by what its stages take alone, and which of them it waits for.

Pure. Everything is measured beforehand: the reads alone in the same way of reading, one thread's
checksums, one link's copies. A load is told from them by the shape of its pipeline:

* With io_uring, a worker sums up while its other reads are under way, and copies to a device go on
  by themselves: the slowest stage decides.
* With pread and from the page cache, a thread reads and then sums up, and only other threads read
  meanwhile: the times of one thread add up, unless the disk as a whole is what all wait for.
* Processors are shared: what all threads compute takes at least its time over as many processors.

What the measured load takes beyond that (planning, making tensors, bringing up workers) is taken to
stay as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Stages by the name that reports have for them.
STAGES = {
    "disk": "the disk",
    "page cache": "copying out of the page cache",
    "checksum": "checksums",
    "link": "the link to the device",
    "overhead": "planning, memory and making tensors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to load, with everything that a plan leaves open decided.

    Attributes
    ----------
    direct : bool
        Reads go past the page cache.
    ring : bool
        By io_uring.
    threads, depth, op_nbytes : int
        Of the reads.
    verify : bool
        Checksums are compared.
    waits_for_copies : bool
        A worker waits for each of its copies to the device.
    """

    direct: bool
    ring: bool
    threads: int
    depth: int
    op_nbytes: int
    verify: bool
    waits_for_copies: bool = False

    @property
    def overlaps(self) -> bool:
        """Whether a worker goes on while its reads are under way."""
        return self.direct and self.ring


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Seconds for one byte, each stage alone.

    Attributes
    ----------
    read : float
        By all threads of the way to load.
    read_cpu : float
        Processor time of those reads.
    read_alone : float
        By one thread.
    checksum : float
        By one thread.
    link : float
        0 if there is none.
    processors : int
        That threads may run on.
    cached : bool
        Reads come out of the page cache.
    """

    read: float
    read_cpu: float
    read_alone: float
    checksum: float
    link: float = 0.0
    processors: int = 1
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of each stage, if the others took no time, and of the whole.

    Attributes
    ----------
    stages : dict of str to float
        By the names of ``STAGES``.
    seconds : float
        Of the load.
    """

    stages: dict[str, float]
    seconds: float

    @property
    def limit(self) -> str:
        """The stage that takes longest."""
        return max(self.stages, key=lambda name: self.stages[name])


def forecast(way: Way, rates: Rates, nbytes: int, overhead: float = 0.0) -> Forecast:
    """How long a load of so many bytes takes.

    Parameters
    ----------
    way : Way
        How it is read.
    rates : Rates
        Measured in that way of reading.
    nbytes : int
        Read, padding included.
    overhead : float
        Seconds that no stage accounts for.
    """
    reads = nbytes * rates.read
    checksums = nbytes * rates.checksum if way.verify else 0.0
    busy = min(way.threads, rates.processors)
    link = nbytes * rates.link
    # What one thread does in turn, if it never waits for another.
    turns = nbytes * rates.read_alone / way.threads + checksums / busy
    if rates.cached:  # the processors read, too, and are slower together than each alone
        turns = max(turns, reads + checksums / busy)
    computing = (nbytes * rates.read_cpu + checksums) / busy
    if way.waits_for_copies:
        turns += link / way.threads
    stages = {
        "page cache" if rates.cached else "disk": reads,
        "checksum": checksums / busy,
        "link": link,
        "overhead": overhead,
    }
    together = max(reads, computing, link)
    if not way.overlaps or way.waits_for_copies:
        together = max(together, turns)
    return Forecast({name: s for name, s in stages.items() if s > 0}, together + overhead)


def overhead_of(way: Way, rates: Rates, nbytes: int, measured: float) -> float:
    """Seconds of a measured load that its stages do not account for."""
    return max(0.0, measured - forecast(way, rates, nbytes).seconds)
