"""The steps of the self-test: each tries one way to load, into memory that held other bytes before.

Operators are fills of float32 and copies alone: every chip has them.
"""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptfmt import device_plan, staging, tensors
from ckptfmt.errors import DeviceError
from ckptfmt.selftest_report import UnavailableError
from ckptfmt.units import format_nbytes, format_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptfmt.checkpoint import Checkpoint
    from ckptfmt.index import TensorEntry
    from ckptfmt.npu import Npu
    from ckptfmt.options import LoadOptions
    from ckptfmt.selftest_report import Listener, Step
    from ckptfmt.stats import LoadStats
    from ckptfmt.truth import Truth

#: One copy to measure the link with; copies in a round, and rounds.
LINK_NBYTES, LINK_COPIES, LINK_ROUNDS = 64 << 20, 4, 5
#: Rates are also measured of the tensors of so many bytes alone, if they make so many together:
#: making thousands of small tensors takes longer than the link takes for their bytes.
LARGE_NBYTES, RATED_NBYTES, RATED_LOADS = 4 << 20, 64 << 20, 3
#: Of a stream, and of what a repeat copies from loaded tensors at once.
STREAM_NBYTES = COPIED_NBYTES = 256 << 20
#: A repeat compares every byte of one in so many tensors, and the checksums of all.
ROTATION = 10
#: Bytes that tensors to be filled hold before.
JUNK_NBYTES = 16 << 20
#: Fills that a repeat queues on memory before the load gets it.
FILLS = 4
#: One in so many repeats works on a stream of its own.
OTHER_STREAM = 3
#: Memory left for torch's rounding when a checkpoint is said to fit.
SPARE_NBYTES = 256 << 20


@dataclass(slots=True)
class Bench:
    """What the steps work with.

    Attributes
    ----------
    torch : module
        With ``torch.npu``.
    npu : Npu
        The device.
    checkpoint : Checkpoint
        What is loaded.
    truth : Truth
        What it must be.
    options : LoadOptions
        Those of the environment.
    listener : Listener
        Told of bytes done.
    letters : tuple of str
        Staging strategies that the probe admitted.
    link_gb_s : float
        What the link was measured to bring; 0 if it was not.
    """

    torch: Any
    npu: Npu
    checkpoint: Checkpoint
    truth: Truth
    options: LoadOptions
    listener: Listener
    letters: tuple[str, ...] = ()
    link_gb_s: float = 0.0
    _value: float = field(default=0.0)

    @property
    def entries(self) -> list[TensorEntry]:
        """All tensors, in order of position."""
        return list(self.checkpoint.index.tensors)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return self.checkpoint.nbytes

    def ticker(self, total: int) -> Callable[[int], None]:
        """A function that adds up bytes done for the listener."""
        done = 0

        def tick(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            self.listener.progress(done, total)

        return tick

    def compare(self, tensors: Mapping[str, Any]) -> None:
        """All bytes of all tensors."""
        self.truth.compare(self.entries, tensors, self.ticker(self.nbytes))

    def release(self) -> None:
        """Give memory that nothing uses back to the device."""
        gc.collect()
        self.torch.npu.empty_cache()

    def check_room(self) -> None:
        """Whether the checkpoint fits."""
        self.release()
        free = self.npu.memory()[0]
        if free < self.nbytes + SPARE_NBYTES // (2 if self.npu.is_shared else 1):
            raise UnavailableError(
                f"{format_nbytes(self.nbytes)} do not fit into the "
                f"{format_nbytes(free)} that are free on {self.npu.name}"
            )

    def raw(self, nbytes: int) -> Any:
        """Bytes of device memory: not of a dtype, for torch_npu does not allocate all of them."""
        return self.torch.empty(nbytes, dtype=self.torch.uint8, device=self.npu.name)

    def scribble(self, fills: int = 1) -> set[int]:
        """Fill the memory that a load will get, and free it; the fills may still be queued.

        Returns
        -------
        set of int
            Its addresses. torch hands out what was freed last, so that bytes which a load fails to
            bring, or that a fill overwrites after it, are wrong and not those of the load before.
        """
        plan = device_plan.allocate_plan(self.checkpoint.index, range(len(self.entries)))
        made = [
            self.torch.empty(-(-nbytes // 4), dtype=self.torch.float32, device=self.npu.name)
            for nbytes in plan.allocations
        ]
        for _ in range(fills):
            self._value += 1.0
            for tensor in made:
                tensor.fill_(self._value)
        return {tensor.data_ptr() for tensor in made}


def probe(bench: Bench, step: Step) -> None:
    """Which staging strategies the machine admits, and why not the others."""
    partitions = bench.checkpoint.files.partitions
    direct = any(p.direct_fd >= 0 for p in partitions)
    found = staging.admitted(bench.npu, partitions)
    bench.letters = tuple(letter for letter, reason in found.items() if not reason)
    step.details = {
        "admitted": {letter: staging.WHAT["npu"][letter] for letter in bench.letters},
        "refused": {letter: reason for letter, reason in found.items() if reason},
        "direct_reads": "tried" if direct else "not tried: the file system refuses them",
    }
    step.message = f"admitted {', '.join(bench.letters) or 'none'}" + "".join(
        f"; not {letter}: {reason}" for letter, reason in found.items() if reason
    )
    if not bench.letters:
        raise DeviceError(f"no way to bring bytes to {bench.npu.name}: {step.message}")


def link(bench: Bench, step: Step) -> None:
    """What plain copies of torch's own pinned memory reach: a yardstick that owes us nothing."""
    torch, npu = bench.torch, bench.npu
    if npu.is_shared:
        raise UnavailableError("host and device have one memory (RC mode)")
    here = torch.empty(LINK_NBYTES, dtype=torch.uint8, pin_memory=True)
    here.fill_(1)
    there = torch.empty(LINK_NBYTES, dtype=torch.uint8, device=npu.name)
    rates = []
    with torch.npu.device(npu.number):
        for number in range(LINK_ROUNDS):
            torch.npu.synchronize()
            began = time.perf_counter()
            for _ in range(LINK_COPIES):
                there.copy_(here, non_blocking=True)
            torch.npu.synchronize()
            rates.append(LINK_COPIES * LINK_NBYTES / (time.perf_counter() - began) / 1e9)
            bench.listener.progress(number + 1, LINK_ROUNDS)
    bench.link_gb_s = max(rates[1:])  # the first may still have set something up
    step.details = {"gb_s": bench.link_gb_s, "rounds_gb_s": rates, "copy_nbytes": LINK_NBYTES}
    step.message = f"{bench.link_gb_s:.2f} GB/s by pinned copies of {format_nbytes(LINK_NBYTES)}"


def ways(bench: Bench) -> Iterator[tuple[str, LoadOptions]]:
    """Each admitted strategy with direct reads, then from the page cache that comparing filled."""
    for letter in bench.letters:
        options = replace(bench.options, npu_staging=letter)  # type: ignore[arg-type]
        if letter == "E":
            yield "strategy E", options
            continue
        yield f"strategy {letter}, direct reads", replace(options, reads="direct")
        yield f"strategy {letter}, page cache", replace(options, reads="buffered")
    yield "synchronous copies", replace(bench.options, npu_staging="auto", sync_copy=True)


def load(bench: Bench, step: Step, options: LoadOptions) -> None:
    """One load of everything, compared."""
    files = bench.checkpoint.files.partitions
    if options.reads == "direct" and not any(p.direct_fd >= 0 for p in files):
        raise UnavailableError("the file system refuses direct reads")
    bench.check_room()
    bench.scribble()
    with bench.torch.npu.device(bench.npu.number):
        bench.torch.npu.synchronize()  # the rate is the load's alone
    found = bench.checkpoint.load(
        device=bench.npu.name, options=options, progress=bench.listener.progress
    )
    _figures(bench, step)
    bench.compare(found)
    del found
    if options.reads != "direct":
        _rate_large(bench, step, options)


def _rate_large(bench: Bench, step: Step, options: LoadOptions) -> None:
    """The best of some loads of the large tensors, which are in the page cache by now."""
    large = [entry for entry in bench.entries if entry.nbytes >= LARGE_NBYTES]
    nbytes = sum(entry.nbytes for entry in large)
    if nbytes < RATED_NBYTES:
        return
    rates = []
    names = [name for entry in large for name in entry.names]
    for _ in range(RATED_LOADS):
        bench.scribble()
        with bench.torch.npu.device(bench.npu.number):
            bench.torch.npu.synchronize()
        found = bench.checkpoint.load(names, device=bench.npu.name, options=options)
        stats = bench.checkpoint.load_stats()
        assert stats is not None
        rates.append(stats.gb_s)
        bench.truth.compare(large, found)
        del found
    step.details["large"] = {"tensors": len(large), "nbytes": nbytes, "gb_s": rates}
    step.message += f"; {len(large)} large tensors alone {max(rates):.2f} GB/s"
    if bench.link_gb_s:
        step.details["large"]["share_of_link"] = max(rates) / bench.link_gb_s
        step.message += f", {max(rates) / bench.link_gb_s:.2f} of the link"


def several_devices(bench: Bench, step: Step) -> None:
    """All devices that this process may use, at the same time."""
    if bench.npu.count < 2:
        raise UnavailableError(f"{bench.npu.name} is the only device")
    bench.release()
    found = bench.checkpoint.load(device="auto", progress=bench.listener.progress)
    _figures(bench, step)
    sums: dict[str, int] = {}
    for entry in bench.entries:
        name = str(found[entry.name].device)
        sums[name] = sums.get(name, 0) + entry.nbytes
    step.details["nbytes_by_device"] = sums
    step.message += f", on {', '.join(sorted(sums))}"
    bench.compare(found)


def load_into(bench: Bench, step: Step) -> None:
    """Tensors that exist already, and hold something else."""
    bench.check_room()
    junk = bench.torch.empty(JUNK_NBYTES // 4, dtype=bench.torch.float32, device=bench.npu.name)
    junk = bench.truth.flat(junk.fill_(-1.0))
    make, target = tensors.device_maker(bench.npu.name), {}
    for entry in bench.entries:
        raw = bench.raw(entry.nbytes)
        for start in range(0, entry.nbytes, JUNK_NBYTES):
            piece = raw[start : start + JUNK_NBYTES]
            piece.copy_(junk[: piece.numel()])
        target.update(dict.fromkeys(entry.names, make(entry, raw)))
    bench.checkpoint.load_into(target, progress=bench.listener.progress)
    _figures(bench, step)
    bench.compare(target)


def stream(bench: Bench, step: Step) -> None:
    """One tensor after the other, in bounded memory."""
    bench.release()
    began, entries = time.perf_counter(), {e.names: e for e in bench.entries}
    by_name = {name: names for names in entries for name in names}
    tick = bench.ticker(bench.nbytes)
    held: dict[str, Any] = {}
    seen = 0
    for name, tensor in bench.checkpoint.stream(max_nbytes=STREAM_NBYTES, device=bench.npu.name):
        held[name] = tensor
        names = by_name[name]
        seen += 1
        if set(names) <= set(held):  # tied names follow each other
            bench.truth.compare([entries[names]], held, tick)
            held.clear()
    if seen != len(by_name):
        raise DeviceError(f"{seen} names came of {len(by_name)}")
    seconds = time.perf_counter() - began
    step.details = {"nbytes": bench.nbytes, "seconds": seconds, "max_nbytes": STREAM_NBYTES}
    step.message = f"{format_nbytes(bench.nbytes)} in {seconds:.2f} s, compared meanwhile"


def repeats(bench: Bench, step: Step, number: int) -> None:
    """Loads into memory that torch still has work queued on, and more work queued right behind."""
    if number == 0:
        raise UnavailableError("asked for none")
    bench.check_room()
    checksums = {e.name: bench.checkpoint.crc32c(e.name) for e in bench.entries}
    tick = bench.ticker(number * bench.nbytes)
    reused = copied = 0
    for turn in range(number):
        letter = bench.letters[turn % len(bench.letters)]
        step.details = {"done": turn, "of": number, "letter": letter, "reused": reused}
        other = turn % OTHER_STREAM == OTHER_STREAM - 1
        with bench.torch.npu.device(bench.npu.number), (
            bench.torch.npu.stream(bench.torch.npu.Stream()) if other else nullcontext()
        ):
            addresses = bench.scribble(FILLS)
            found = bench.checkpoint.load(
                device=bench.npu.name,
                options=replace(bench.options, npu_staging=letter),  # type: ignore[arg-type]
            )
            entries = bench.entries
            chosen = [e for e in entries[turn % ROTATION :: ROTATION] if e.nbytes]
            copies = _copies(bench, chosen, found)
            reused += bool(addresses & {t.untyped_storage().data_ptr() for t in found.values()})
            for entry, copy in copies:
                bench.truth.compare([entry], dict.fromkeys(entry.names, copy))
            bench.truth.compare(chosen, found)
            bench.truth.compare_checksums(entries, found, checksums, tick)
            copied += len(copies)
        del found, copies
    step.details = {
        "done": number, "of": number, "letters": list(bench.letters), "reused": reused,
        "tensors_copied": copied,
    }  # fmt: skip
    if not reused:
        raise DeviceError(
            f"none of {number} loads was given memory with work queued: they prove nothing",
            hint="a pluggable allocator, or PYTORCH_NO_NPU_MEMORY_CACHING, may be the reason",
        )
    step.message = (
        f"{number} loads of {format_nbytes(bench.nbytes)}, {reused} into memory with work queued"
    )


def _copies(
    bench: Bench, chosen: list[TensorEntry], found: Mapping[str, Any]
) -> list[tuple[TensorEntry, Any]]:
    """Copies on the device, queued at once behind the load, of some of the tensors."""
    make = tensors.device_maker(bench.npu.name)
    copies, room = [], COPIED_NBYTES
    for entry in chosen:
        room -= entry.nbytes
        if room >= 0:
            raw = bench.raw(entry.nbytes)
            raw.copy_(bench.truth.flat(found[entry.name]))
            copies.append((entry, make(entry, raw)))
    return copies


def _figures(bench: Bench, step: Step) -> None:
    """What the load just made was like."""
    stats = bench.checkpoint.load_stats()
    assert stats is not None
    step.details = _plain(stats)
    share = ""
    if bench.link_gb_s:
        step.details["share_of_link"] = stats.gb_s / bench.link_gb_s
        share = f", {stats.gb_s / bench.link_gb_s:.2f} of the link"
    step.message = (
        f"{format_nbytes(stats.nbytes)} in {stats.seconds:.3f} s, "
        f"{format_rate(stats.nbytes, stats.seconds)}{share}, limited by {stats.bottleneck}"
    )


def _plain(stats: LoadStats) -> dict[str, Any]:
    """Statistics for JSON, the files summed up."""
    told = stats.to_dict()
    files = stats.files.values()
    told["files"] = {
        "direct_nbytes": sum(f.direct_nbytes for f in files),
        "buffered_nbytes": sum(f.buffered_nbytes for f in files),
        "reasons": sorted({f.reason for f in files}),
    }
    return told
