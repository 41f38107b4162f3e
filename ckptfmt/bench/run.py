"""One benchmark: what is measured, in which state, and what follows from it."""

from __future__ import annotations

import datetime
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptfmt import machine
from ckptfmt.bench import cache_state, contenders
from ckptfmt.bench.candidates import Candidate, candidates
from ckptfmt.bench.forms import Form, safetensors_form
from ckptfmt.bench.in_turn import Measurement, measure
from ckptfmt.bench.judgement import Judgement, judge
from ckptfmt.bench.rates import LINK_SIZES, Checksums, FreshMemory, Link
from ckptfmt.bench.raw_reads import RawReads
from ckptfmt.bench.subject import Subject
from ckptfmt.bench.timeline import throughput, timeline
from ckptfmt.bench.tuning import Best, Tuner
from ckptfmt.errors import OptionError
from ckptfmt.options import LoadOptions
from ckptfmt.units import format_nbytes
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.bench.contenders import Contender
    from ckptfmt.bench.in_turn import Listener
    from ckptfmt.bench.raw_reads import Sample
    from ckptfmt.trace import Trace

#: Of the files, for one measurement of reads alone: what the first load reads in so many seconds,
#: within bounds. Those to a device go into the same memory again and again: they may be more.
SAMPLE_SECONDS, SAMPLE_NBYTES = 0.3, (32 << 20, 1 << 30)
SAMPLE_TO_DEVICE = 4
#: Of fresh memory.
FRESH_NBYTES = 256 << 20
#: More of the files than this being cached, a load comes from the page cache; less, from the disk.
WARM_SHARE, COLD_SHARE = 0.9, 0.1
#: Of smaller files no state is checked: headers and some pages around them are read when they open.
CHECKED_NBYTES = 8 << 20
#: Below this, what a virtual machine's host takes back is not what is measured.
HOST_NBYTES = 256 << 20


@dataclass(slots=True)
class Bench:
    """Everything that one run measures.

    Attributes
    ----------
    subject : Subject
        The load.
    state : str
        ``cold`` or ``warm``.
    first : float
        Rate of the first load, GB/s: it makes what later ones find.
    tried : list of Candidate
        The settings as they are, then others.
    reads : dict
        Measurements of reads alone, by what decides about them.
    together : list of Measurement
        Reads as they are with checksums, if the load has any and a thread does one after the other.
    checksums, memory, links : list of Measurement
        Of the other stages.
    load : Measurement
        Of the load.
    others : list of Measurement
        Of other loaders.
    """

    subject: Subject
    state: str
    first: float
    tried: list[Candidate]
    load: Measurement
    reads: dict[tuple[object, ...], Measurement] = field(default_factory=dict)
    together: list[Measurement] = field(default_factory=list)
    checksums: list[Measurement] = field(default_factory=list)
    memory: list[Measurement] = field(default_factory=list)
    links: list[Measurement] = field(default_factory=list)
    others: list[Measurement] = field(default_factory=list)

    @property
    def ceilings(self) -> list[Measurement]:
        """All but the loads."""
        return [
            *self.reads.values(), *self.together, *self.checksums, *self.memory, *self.links
        ]  # fmt: skip


def run(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    state: str | None = None,
    repeat: int = 3,
    vs: Sequence[str] = (),
    source: str | None = None,
    verify: bool = True,
    tune: bool = False,
    options: LoadOptions | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Measure a load beside what limits it, and say which of that does.

    Parameters
    ----------
    path : path-like
        The checkpoint.
    device : str
        ``"cpu"``, ``"npu:N"`` or ``"cuda:N"``.
    state : str, optional
        ``"cold"``: nothing of the files is in the page cache when a measurement begins; ``"warm"``:
        all of it is. As they are found if not given: warm from nine tenths on, cold up to one.
    repeat : int
        Rounds; each measures everything once.
    vs : sequence of str
        Other loaders, of ``contenders.CONTENDERS``.
    source : str, optional
        Folder with the same tensors as safetensors, for those; else they are exported beside the
        checkpoint, and removed.
    verify : bool
        Compare checksums.
    tune : bool
        Load with the settings that should gain, and keep what does.
    options : LoadOptions, optional
        The settings to look at; else the environment's.
    listener : callable, optional
        Told of each measurement.

    Returns
    -------
    dict
        The report, of values that JSON has (docs/bench.md).

    Raises
    ------
    OptionError, MissingDependencyError
        There is no such device or loader; `source` has other tensors; the files are neither cold
        nor warm, and `state` is not given.
    FileError
        The page cache cannot be brought to the state.
    CkptError
        As for :func:`ckptfmt.load`.
    """
    options = options or LoadOptions.from_environment()
    rivals = contenders.chosen(vs)
    if source is not None and not rivals:
        raise OptionError("--source is read by other loaders, and none is named", hint="see --vs")
    with ExitStack() as held:
        subject = held.enter_context(Subject(path, device, options, verify=verify))
        held.enter_context(subject.in_use())
        files = subject.files
        state, notes = _state(files, state)
        form = Form([], 0)
        if rivals:
            listener = listener or _nobody
            listener("exporting safetensors" if source is None else "the first load", 0, 1)
            form = held.enter_context(safetensors_form(subject.checkpoint, source))

        def prepare(one: Measurement) -> None:
            if one.reads_files:
                read = form.files if one.kind == "contender" else files
                cache_state.establish(read, state, checked_nbytes=CHECKED_NBYTES)
                is_load = one.kind in ("load", "contender")
                if is_load and subject.device is None and subject.checkpoint.nbytes >= HOST_NBYTES:
                    subject.hold()
                    cache_state.wait_for_host()

        bench = _begin(subject, state, prepare)
        _add_reads(bench)
        _add_rates(bench)
        for name, rival in rivals.items():
            bench.others.append(_contender(bench, name, rival, form))
        measure([bench.load, *bench.others, *bench.ceilings], repeat, prepare, listener)
        judged = judge(
            bench.tried, bench.reads, bench.together, bench.checksums, bench.links, bench.load,
            subject.read_nbytes, cached=state == "warm",
        )  # fmt: skip
        best = None
        if tune:
            best = Tuner(subject, repeat, prepare, listener).tune(bench.tried, judged.gains)
        traces: list[Trace] = []
        if listener is not None:
            listener("one more load, for its time line", 0, 1)
        prepare(bench.load)
        subject.load(options, verify=verify, trace=traces)
        judged.notes += notes
        return _record(bench, judged, best, traces, repeat)


def _nobody(what: str, done: int, total: int) -> None:
    """Listen to nothing."""


def _state(files: Sequence[str], wanted: str | None) -> tuple[str, list[str]]:
    """The state to bring files to, and what a person has to know of it."""
    share = cache_state.cached_share(files)
    if share is None:
        note = "the page cache may not be asked here: whether the files are in it is unchecked"
        return wanted or "cold", [note]
    if wanted is None and COLD_SHARE < share < WARM_SHARE:
        raise OptionError(
            f"{share:.0%} of the files is in the page cache", hint="say --cold or --warm"
        )
    return wanted or ("warm" if share >= WARM_SHARE else "cold"), []


def _contender(bench: Bench, name: str, rival: Contender, form: Form) -> Measurement:
    """Another loader; what it maps is let go, for it would keep the files in the page cache."""
    load = rival.prepare(form.files, bench.subject.name)

    def run() -> Sample:
        try:
            return bench.subject.timed(load, form.nbytes)
        finally:
            bench.subject.release()

    return Measurement(name, rival.what, "contender", run)


def _begin(subject: Subject, state: str, prepare: Any) -> Bench:
    """A first load, which is told apart: it shows what the settings come to."""
    load = Measurement(
        "load", "ckptfmt.load", "load",
        lambda: subject.load(subject.options, verify=subject.verify),
    )  # fmt: skip
    prepare(load)
    first = load.run()
    tried = candidates(
        subject.options, subject.way, processors=len(os.sched_getaffinity(0)),
        can_ring=subject.can_ring, can_direct=subject.can_direct,
    )  # fmt: skip
    return Bench(subject, state, first.gb_s, tried, load)


def _add_reads(bench: Bench) -> None:
    """Reads alone, in each way that is tried, and by one thread where that has to be known."""
    subject = bench.subject
    least, most = SAMPLE_NBYTES
    fresh = subject.device is None
    most = most if fresh else most * SAMPLE_TO_DEVICE
    nbytes = min(max(int(bench.first * 1e9 * SAMPLE_SECONDS), least), most)
    reads = RawReads(subject.checkpoint.files, nbytes, fresh=fresh)
    for candidate in [c for one in bench.tried for c in (one, one.alone())]:
        if candidate.reads in bench.reads:
            continue
        way = candidate.way
        # Said outright: reads alone would choose other threads than those that go on to a device.
        options = replace(
            candidate.options, threads=way.threads, reads="direct" if way.direct else "buffered"
        )
        how = f"{'io_uring' if way.ring else 'pread'}" if way.direct else "through the page cache"
        deep = f", {way.depth} deep" if way.ring else ""
        bench.reads[candidate.reads] = Measurement(
            f"reads-{len(bench.reads)}",
            f"{'direct ' if way.direct else ''}reads {'by ' if way.direct else ''}{how}, "
            f"{_threads(way.threads)}{deep}, "
            f"{format_nbytes(way.op_nbytes)} each",
            "disk" if way.direct or bench.state == "cold" else "cache",
            partial(reads.run, options),
            params={
                "direct": way.direct, "io_uring": way.ring, "threads": way.threads,
                "depth": way.depth, "op_nbytes": way.op_nbytes,
            },
        )  # fmt: skip


    base = bench.tried[0]
    if base.way.verify and not base.way.overlaps:
        one = bench.reads[base.reads]
        options = replace(
            base.options, threads=base.way.threads,
            reads="direct" if base.way.direct else "buffered",
        )  # fmt: skip
        bench.together.append(Measurement(
            "reads-verified", f"{one.what}, with checksums", one.kind,
            partial(reads.run, options, verify=True), params={**one.params, "verify": True},
        ))  # fmt: skip


def _add_rates(bench: Bench) -> None:
    """The other stages."""
    subject, way = bench.subject, bench.tried[0].way
    processors = len(os.sched_getaffinity(0))
    kind = "in the processor's cache" if not way.direct else "in memory"
    for threads in dict.fromkeys((1, min(way.threads, processors), processors)):
        checksums = Checksums(threads, cached=not way.direct)
        bench.checksums.append(Measurement(
            f"checksum-{threads}", f"checksums of bytes {kind}, {_threads(threads)}",
            "checksum",
            checksums.run, reads_files=False, params={"threads": threads},
        ))  # fmt: skip
    device = subject.device
    if device is None:
        nbytes = min(subject.checkpoint.nbytes, FRESH_NBYTES)
        memory = FreshMemory(nbytes, min(way.threads, processors))
        bench.memory.append(Measurement(
            "memory", f"copies into fresh memory, {_threads(memory.threads)}", "memory",
            memory.run, reads_files=False, params={"threads": memory.threads},
        ))  # fmt: skip
    elif not device.is_shared:
        for pinned in (True, False):
            for nbytes in LINK_SIZES:
                link = Link(device, nbytes, pinned=pinned)
                how = "pinned" if pinned else "pageable"
                bench.links.append(Measurement(
                    f"link-{how}-{nbytes >> 20}MiB",
                    f"copies to {device.name}, {how}, {nbytes >> 20} MiB each", "link",
                    link.run, reads_files=False, params={"pinned": pinned, "nbytes": nbytes},
                ))  # fmt: skip


def _record(
    bench: Bench, judged: Judgement, best: Best | None, traces: list[Trace], repeat: int
) -> dict[str, Any]:
    subject = bench.subject
    files = subject.checkpoint.files
    stats, way = subject.stats, bench.tried[0].way
    facts = machine.host_facts()
    facts |= {"file_system": machine.filesystem(subject.checkpoint.path)}
    if subject.device is not None:
        facts["device"] = asdict(machine.device_facts(subject.device))
    return {
        "ckptfmt": VERSION,
        "path": subject.checkpoint.path,
        "device": subject.name,
        "state": bench.state,
        "repeat": repeat,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": facts,
        "checkpoint": {
            "nbytes": subject.checkpoint.nbytes, "tensors": len(files.index.tensors),
            "partitions": len(files.partitions),
        },
        "settings": {
            **asdict(subject.options), **asdict(way), "io": stats.engine,
            "engine_reason": stats.engine_reason, "staging": stats.staging,
        },
        "load": {
            **_rates(bench.load), "first_gb_s": bench.first,
            "seconds": subject.checkpoint.nbytes * bench.load.median(), "stats": stats.to_dict(),
        },
        "ceilings": [
            {**_rates(one), "kind": one.kind, "params": one.params, "limits": one.id == judged.by}
            for one in bench.ceilings
        ],
        "contenders": [_rates(one) for one in bench.others],
        "limit": judged.limit,
        "stages": judged.stages,
        "gains": [asdict(gain) for gain in judged.gains],
        "best": None if best is None else asdict(best),
        "timeline": timeline(traces),
        "throughput": throughput(traces),
        "notes": judged.notes,
    }  # fmt: skip


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _rates(one: Measurement) -> dict[str, Any]:
    return {
        "id": one.id, "what": one.what, "gb_s": one.gb_s,
        "runs_gb_s": [sample.gb_s for sample in one.samples], "nbytes": one.samples[0].nbytes,
    }  # fmt: skip
