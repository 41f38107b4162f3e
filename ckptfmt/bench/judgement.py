"""What follows from the measurements: the stage that limits, and what each setting would gain.

Pure: measurements in, words and figures out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt.bench.pipeline import STAGES, Rates, forecast, overhead_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptfmt.bench.candidates import Candidate
    from ckptfmt.bench.in_turn import Measurement

#: A setting that would gain this much is what limits, rather than the hardware as it is used.
SETTING_GAIN = 0.15
#: A gain below is not worth a word: it is within what repeating a measurement gives.
WORTH = 0.03
#: Another ceiling this close may be the limit just as well.
CLOSE = 1.05
#: By fewer rounds, a setting is not named as the limit.
ROUNDS = 3
#: A shorter load is over before it comes into its stride.
SHORT_SECONDS = 0.3

ADVICE = {
    "disk": "a faster disk, or fewer bytes (a narrower dtype); files in the page cache come faster",
    "page cache": "faster memory; more threads where there are more processors",
    "checksum": "verify=False (--no-verify) leaves the checksums out; more threads where there are "
    "more processors",
    "link": "fewer bytes (a narrower dtype), or several devices, each with a link of its own",
    "overhead": "larger tensors, or fewer: planning and making tensors takes this long",
}


@dataclass(slots=True)
class Gain:
    """What one setting would do.

    Attributes
    ----------
    setting, value, environment : str
        Which, to what, and how to ask for it.
    predicted_gb_s, predicted_gain : float
        Of the load, and by how much that is more than now: 0.5 is half as fast again.
    measured_gb_s, measured_gain : float or None
        The same of loads with it, where there were any.
    why : str
        The stage that it would be limited by.
    """

    setting: str
    value: str
    environment: str
    predicted_gb_s: float
    predicted_gain: float
    why: str
    measured_gb_s: float | None = None
    measured_gain: float | None = None


@dataclass(slots=True)
class Judgement:
    """What limits, and what would help.

    Attributes
    ----------
    limit : dict
        ``id``, ``what``, ``gb_s``, ``reached`` and ``advice``.
    by : str
        The measurement that is the ceiling.
    stages : dict
        Seconds that each stage takes alone.
    gains : list of Gain
        One for each candidate, the best first.
    notes : list of str
        What else a person should know.
    """

    limit: dict[str, Any]
    by: str
    stages: dict[str, float]
    gains: list[Gain]
    notes: list[str]


def judge(
    tried: Sequence[Candidate],
    reads: Mapping[tuple[object, ...], Measurement],
    together: Sequence[Measurement],
    checksums: Sequence[Measurement],
    links: Sequence[Measurement],
    load: Measurement,
    read_nbytes: int,
    *,
    cached: bool,
) -> Judgement:
    """Judge a load by what its stages do alone.

    Parameters
    ----------
    tried : sequence of Candidate
        The settings as they are, then the others.
    reads : mapping
        Reads alone, by ``Candidate.reads``.
    together : sequence of Measurement
        Reads as they are with checksums, or nothing.
    checksums, links : sequence of Measurement
        One for each number of threads; one for each size, pinned ones and others.
    load : Measurement
        Of the load itself.
    read_nbytes : int
        What one load reads.
    cached : bool
        The files are in the page cache.
    """
    base = tried[0]
    processors = max(int(str(one.params["threads"])) for one in checksums)
    pinned = [one for one in links if one.params["pinned"]]

    def rates(candidate: Candidate) -> Rates:
        mine, alone = reads[candidate.reads], reads[candidate.alone().reads]
        busy = min(candidate.way.threads, processors)
        if together and not candidate.way.overlaps:
            more = together[0].median() - reads[base.reads].median()
            summing = max(0.0, more) * min(base.way.threads, processors)
        else:
            # Processors that share a core or memory are slower together than each alone.
            sums = min(checksums, key=lambda one: abs(int(str(one.params["threads"])) - busy))
            summing = sums.median() * int(str(sums.params["threads"]))
        return Rates(
            read=mine.median(), read_cpu=mine.median("cpu_seconds"), read_alone=alone.median(),
            checksum=summing,
            link=_link(pinned, candidate), processors=processors,
            cached=cached and not candidate.way.direct,
        )  # fmt: skip

    nbytes = load.samples[0].nbytes
    measured = nbytes * load.median()
    overhead = overhead_of(base.way, rates(base), read_nbytes, measured)
    now = forecast(base.way, rates(base), read_nbytes, overhead)
    gains = []
    for candidate in tried[1:]:
        then = forecast(candidate.way, rates(candidate), read_nbytes, overhead)
        # What the stages fall short of, or exceed, the load by now, they do then. But no load is
        # faster than its reads alone, unless it is now.
        least = min(measured, read_nbytes * reads[candidate.reads].median())
        seconds = max(then.seconds * measured / now.seconds, least)
        gains.append(Gain(
            candidate.setting, candidate.value, candidate.spelling, nbytes / seconds / 1e9,
            measured / seconds - 1, STAGES[then.limit],
        ))  # fmt: skip
    gains.sort(key=lambda gain: -gain.predicted_gain)
    # Leaving the checksums out, or the page cache for the disk, is another load, not a better one.
    sure = {
        (c.setting, c.value) for c in tried[1:]
        if c.setting not in ("verify", "reads") and _is_faster(reads[c.reads], reads[base.reads])
    }  # fmt: skip
    helps = [gain for gain in gains if (gain.setting, gain.value) in sure]
    limit, by = _limit(now.limit, base, helps, reads, checksums, pinned, load)
    notes = _notes(now.stages, now.limit, load, measured)
    return Judgement(limit, by, now.stages, gains, notes)


def _is_faster(one: Measurement, other: Measurement) -> bool:
    """Whether a way to read was faster in every round, or is the same: once may be by chance."""
    return one is other or all(
        a.gb_s > b.gb_s for a, b in zip(one.samples, other.samples, strict=True)
    )


def _link(pinned: Sequence[Measurement], candidate: Candidate) -> float:
    """Seconds for a byte: at its best, or in copies of the size that is waited for."""
    if not pinned:
        return 0.0
    if not candidate.way.waits_for_copies:
        return min(one.median() for one in pinned)
    wanted = candidate.way.op_nbytes
    return min(pinned, key=lambda one: abs(int(str(one.params["nbytes"])) - wanted)).median()


def _limit(
    stage: str,
    base: Candidate,
    helps: Sequence[Gain],
    reads: Mapping[tuple[object, ...], Measurement],
    checksums: Sequence[Measurement],
    pinned: Sequence[Measurement],
    load: Measurement,
) -> tuple[dict[str, Any], str]:
    """The limit in words, and the measurement that is its ceiling; `helps` has the best first."""
    way = base.way
    if stage in ("disk", "page cache"):
        ceiling = max(
            (one for one in reads.values() if one.kind == reads[base.reads].kind),
            key=lambda one: one.gb_s,
        )
    elif stage == "checksum":
        ceiling = max(checksums, key=lambda one: one.gb_s)
    elif stage == "link":
        ceiling = max(pinned, key=lambda one: one.gb_s)
    else:
        ceiling = load
    found = {
        "id": stage, "what": STAGES[stage], "gb_s": ceiling.gb_s,
        "reached": load.gb_s / ceiling.gb_s if ceiling.gb_s else 0.0, "advice": ADVICE[stage],
    }  # fmt: skip
    rates = [sample.gb_s for sample in load.samples]
    enough = max(SETTING_GAIN, max(rates) / min(rates) - 1)
    if len(rates) >= ROUNDS and helps and helps[0].predicted_gain >= enough:
        best = helps[0]
        value = getattr(way, best.setting, getattr(base.options, best.setting, ""))
        value = f"{way.op_nbytes >> 20}MiB" if best.setting == "op_nbytes" else value
        value = ("io_uring" if way.ring else "pread") if best.setting == "io" else value
        found |= {
            "id": best.setting,
            "what": f"{best.setting.replace('_', ' ')} ({value})",
            "gb_s": best.predicted_gb_s,
            "reached": load.gb_s / best.predicted_gb_s,
            "advice": f"{best.environment}: {best.predicted_gain:+.0%} is to be expected, "
            f"then limited by {best.why}",
        }
    return found, ceiling.id


def _notes(
    stages: Mapping[str, float], limit: str, load: Measurement, measured: float
) -> list[str]:
    notes = []
    close = [
        STAGES[name] for name, seconds in stages.items()
        if name not in (limit, "overhead") and seconds * CLOSE >= stages[limit]
    ]  # fmt: skip
    if close:
        notes.append(f"{STAGES[limit]} and {', '.join(close)} take about as long as each other")
    rates = [sample.gb_s for sample in load.samples]
    if max(rates) > 1.25 * min(rates):
        notes.append(
            f"the loads took from {min(rates):.2f} to {max(rates):.2f} GB/s: something else uses "
            "this machine, and figures closer than that tell nothing"
        )
    if measured < SHORT_SECONDS:
        notes.append(
            f"the load takes {measured:.3f} s: so short a one says little, try a larger checkpoint"
        )
    overhead = stages.get("overhead", 0.0)
    if limit != "overhead" and overhead > 0.1 * measured:
        notes.append(
            f"{overhead:.2f} s of {measured:.2f} s are {STAGES['overhead']}: that weighs less in a "
            "larger checkpoint"
        )
    return notes
