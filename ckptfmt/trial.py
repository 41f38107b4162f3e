"""One load made for what can be told about it: what ``ckptfmt load`` does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptfmt import machine
from ckptfmt.devices import devices_of
from ckptfmt.errors import NotFoundError, OptionError
from ckptfmt.opening import open_checkpoint
from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptfmt.engine import Progress
    from ckptfmt.machine import GpuFacts, NpuFacts
    from ckptfmt.stats import LoadStats
    from ckptfmt.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a load was like.

    Attributes
    ----------
    tensors : int
        Names loaded.
    stats : LoadStats
        Of the load alone: bringing up devices is in ``device_start_seconds``.
    devices : list of NpuFacts or GpuFacts
        Those that took tensors, as they were before.
    free_after_nbytes : dict of str to int
        Memory free on each of them while the tensors were there.
    warnings : list of str
        What a person should know before using such tensors.
    trace : str or None
        The file that the trace was written to.
    """

    tensors: int
    stats: LoadStats
    devices: list[NpuFacts | GpuFacts] = field(default_factory=list)
    free_after_nbytes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    trace: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts: dict[str, list[dict[str, Any]]] = {"npus": [], "gpus": []}
        for device in self.devices:
            told = asdict(device)
            told["free_before_nbytes"] = told.pop("free_nbytes")
            told["free_after_nbytes"] = self.free_after_nbytes[device.name]
            facts["npus" if device.name.startswith("npu:") else "gpus"].append(told)
        return {
            "tensors": self.tensors, **self.stats.to_dict(), **facts,
            "warnings": self.warnings, "trace": self.trace,
        }  # fmt: skip


def run(
    path: str | os.PathLike[str],
    *,
    device: str | Mapping[str, str] = "cpu",
    names: str | Iterable[str] | None = None,
    dtype: object = None,
    verify: bool | None = None,
    mmap: bool = False,
    framework: str = "torch",
    no_split: Sequence[str] = (),
    rank: int | None = None,
    tensor_parallel: int | None = None,
    trace: str | None = None,
    progress: Progress | None = None,
) -> Trial:
    """Load tensors, look at them and at the devices, and drop them.

    Parameters
    ----------
    path, device, names, dtype, verify, mmap, framework, no_split, rank, tensor_parallel, progress
        As for :func:`ckptfmt.load`.
    trace : str, optional
        A file to write what the workers did to.

    Returns
    -------
    Trial
        Figures, devices, warnings.

    Raises
    ------
    OptionError
        A trace is wanted of a load that reads nothing.
    CkptError
        As :func:`ckptfmt.load`.
    """
    if trace is not None:
        _check_trace(trace, mmap=mmap)
    recorded: list[Trace] | None = [] if trace is not None else None
    with open_checkpoint(path, rank=rank, tensor_parallel=tensor_parallel) as checkpoint:
        devices = devices_of(device)
        before = {one.name: machine.device_facts(one) for one in devices}
        found = checkpoint.load(
            names, device=device, dtype=dtype, verify=verify, mmap=mmap, framework=framework,
            progress=progress, no_split=no_split, trace=recorded,
        )  # fmt: skip
        stats = checkpoint.load_stats()
    assert stats is not None
    started = sum(one.start_seconds for one in devices)
    stats = replace(stats, device_start_seconds=stats.device_start_seconds + started)
    used = [one for one in devices if one.name in stats.devices]
    trial = Trial(
        tensors=len(found),
        stats=stats,
        devices=[before[one.name] for one in used],
        free_after_nbytes={one.name: one.memory()[0] for one in used},
        warnings=_bf16_warnings(found.values(), before),
        trace=trace,
    )
    if trace is not None:
        _write_trace(trace, recorded or [], path, trial)
    return trial


def _bf16_warnings(
    tensors: Iterable[Any], devices: Mapping[str, NpuFacts | GpuFacts]
) -> list[str]:
    """A GPU that computes none converts as it goes; a chip of Ascend's that does not refuses."""
    socs = {
        name: facts.soc
        for name, facts in devices.items()
        if isinstance(facts, machine.NpuFacts) and not facts.computes_bf16
    }
    counts: Counter[str] = Counter()
    if socs:
        counts.update(str(t.device) for t in tensors if str(t.dtype) == "torch.bfloat16")
    return [
        f"{name} is an {socs[name]}, which computes no bf16, and {number} of its tensors are "
        "bf16: ckptfmt convert --dtype fp16 makes them what it has"
        for name, number in sorted(counts.items())
        if name in socs
    ]


def _check_trace(trace: str, *, mmap: bool) -> None:
    """Before the load: what cannot be written afterwards need not be recorded."""
    if mmap:
        raise OptionError("a trace shows reads, and mmap=True makes none")
    folder = os.path.dirname(os.path.abspath(trace))
    if not os.path.isdir(folder):
        raise NotFoundError(2, "the trace cannot be written there", folder)


def _write_trace(
    trace: str, recorded: list[Trace], path: str | os.PathLike[str], trial: Trial
) -> None:
    from ckptfmt import trace as tracing  # noqa: PLC0415

    tracing.write(trace, recorded, {
        "checkpoint": os.fspath(path), "ckptfmt": VERSION, "seconds": trial.stats.seconds,
        "nbytes": trial.stats.nbytes, "staging": trial.stats.staging,
        "bottleneck": trial.stats.bottleneck,
    })  # fmt: skip
