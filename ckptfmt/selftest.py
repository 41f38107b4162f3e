"""``ckptfmt selftest``: proof, on the machine at hand, that loads to an NPU bring the right bytes.

What the tests of this project show, they show on a simulated runtime (docs/simulator.md). This runs
on the hardware, needs nothing but the installed package, and leaves a report.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes, machine, placement, selftest_model, selftest_steps
from ckptfmt.checkpoint import Checkpoint
from ckptfmt.errors import CkptError, OptionError
from ckptfmt.npu import Npu
from ckptfmt.options import LoadOptions
from ckptfmt.regrouped import refuse_regrouped
from ckptfmt.selftest_report import (
    FAILED,
    OK,
    UNAVAILABLE,
    DifferentError,
    Listener,
    Report,
    Silent,
    Step,
    UnavailableError,
)
from ckptfmt.truth import Truth
from ckptfmt.units import format_nbytes, format_rate
from ckptfmt.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.dtypes import Dtype

__all__ = ["Report", "run"]

#: Bytes of the checkpoint that is made if none is given.
DEFAULT_NBYTES = 1 << 30


def run(
    device: str = "npu:0",
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    against: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    nbytes: int = DEFAULT_NBYTES,
    repeats: int = 100,
    listener: Listener | None = None,
) -> Report:
    """Try every way to load to an NPU that this machine has, and compare every byte.

    Parameters
    ----------
    device : str
        ``"npu:0"``. All devices of the process are used together in one of the steps.
    checkpoint : path-like, optional
        What to load. If not given, a checkpoint is made and removed afterwards.
    against : path-like, optional
        The checkpoint's source; it is compared with that first.
    folder : path-like, optional
        Where to make the checkpoint; the system's folder for temporary files if not given.
    nbytes : int
        Its size, about.
    repeats : int
        Loads into memory that torch has just been using.
    listener : Listener, optional
        Told of each step.

    Returns
    -------
    Report
        What each step found. A step that fails does not end the test; Ctrl-C does, and the report
        has what there is.

    Raises
    ------
    OptionError
        The arguments contradict each other.
    """
    name = placement.normalize(device)
    if not name.startswith("npu:"):
        raise OptionError(f"device is {device!r}; the self-test is for NPUs")
    if against is not None and checkpoint is None:
        raise OptionError("a source to compare with is given, but no checkpoint")
    if nbytes < selftest_model.MIN_NBYTES:
        raise OptionError(
            f"size is {nbytes} bytes, expected at least {selftest_model.MIN_NBYTES}"
        )
    began = time.perf_counter()
    test = _SelfTest(Report(name, machine.host_facts()), listener or Silent())
    with ExitStack() as held:
        try:
            test.run(held, checkpoint, against, folder, nbytes, repeats)
        except KeyboardInterrupt:
            test.report.interrupted = True
    test.report.seconds = time.perf_counter() - began
    return test.report


class _SelfTest:
    def __init__(self, report: Report, listener: Listener) -> None:
        self.report = report
        self.listener = listener
        self.npu: Npu | None = None
        self.path = ""

    def run(
        self,
        held: ExitStack,
        path: str | os.PathLike[str] | None,
        against: str | os.PathLike[str] | None,
        folder: str | os.PathLike[str] | None,
        nbytes: int,
        repeats: int,
    ) -> None:
        """All steps; those that the others build on end the test if they fail."""
        if not self.step("device", self._device):
            return
        if path is not None:
            self.path = os.fspath(path)
        elif not self.step("make a checkpoint", lambda s: self._make(s, held, folder, nbytes)):
            return
        if not self.step("checkpoint", lambda s: self._verify(s, against)):
            return
        assert self.npu is not None
        bench = selftest_steps.Bench(
            torch=dtypes.import_torch(),
            npu=self.npu,
            checkpoint=held.enter_context(Checkpoint(self.path)),
            truth=held.enter_context(Truth(self.path)),
            options=LoadOptions.from_environment(),
            listener=self.listener,
        )
        if not self.step("probe", partial(selftest_steps.probe, bench)):
            return
        self.step("link", partial(selftest_steps.link, bench))
        for name, options in selftest_steps.ways(bench):
            self.step(name, partial(selftest_steps.load, bench, options=options))
        self.step("load_into", partial(selftest_steps.load_into, bench))
        self.step("stream", partial(selftest_steps.stream, bench))
        self.step("several devices", partial(selftest_steps.several_devices, bench))
        self.step("repeats", partial(selftest_steps.repeats, bench, number=repeats))

    def step(self, name: str, body: Callable[[Step], None]) -> bool:
        """Make one step and note what came of it.

        Returns
        -------
        bool
            Whether it did what it should.
        """
        step = Step(name)
        self.listener.begin(name)
        began = time.perf_counter()
        try:
            body(step)
        except UnavailableError as error:
            step.outcome, step.message = UNAVAILABLE, str(error)
        except DifferentError as error:
            step.outcome, step.message, step.difference = FAILED, str(error), error.first
        except CkptError as error:
            hint = f" ({error.hint})" if error.hint else ""
            step.outcome, step.message = FAILED, f"{type(error).__name__}: {error}{hint}"
        except KeyboardInterrupt:
            step.outcome, step.message = FAILED, "interrupted"
            raise
        except Exception as error:  # whatever torch_npu raises, the test goes on
            lines = str(error).strip().splitlines() or [""]
            step.outcome, step.message = FAILED, f"{type(error).__name__}: {lines[0]}"
        finally:
            step.seconds = time.perf_counter() - began
            self.report.steps.append(step)
            self.listener.end(step)
        return step.outcome == OK

    def _device(self, step: Step) -> None:
        self.npu = npu = Npu(self.report.device)
        facts = machine.npu_facts(npu)
        self.report.npu = {**asdict(facts), "devices": npu.count}
        step.message = (
            f"physical device {facts.physical}, {facts.soc}, {facts.run_mode} mode, "
            f"CANN {facts.cann or 'unknown'}, driver {facts.driver or 'unknown'}, "
            f"torch_npu {facts.torch_npu or 'unknown'}; up in {facts.start_seconds:.2f} s"
        )

    def _make(
        self, step: Step, held: ExitStack, folder: str | os.PathLike[str] | None, nbytes: int
    ) -> None:
        rows, refused = _dtypes_on(self.report.device)
        made = held.enter_context(
            tempfile.TemporaryDirectory(prefix="ckptfmt-selftest-", dir=folder)
        )
        self.path = selftest_model.make(made, nbytes, rows)
        step.details = {"dtypes": [row.name for row in rows], "refused": refused}
        step.message = f"{self.path}, {len(rows)} dtypes" + (
            f"; the device takes no {', '.join(refused)}" if refused else ""
        )

    def _verify(self, step: Step, against: str | os.PathLike[str] | None) -> None:
        """The source of truth: bytes whose checksums are right, and equal the source's."""
        found = verify(self.path, against=against, progress=self.listener.progress)
        step.details = {
            "nbytes": found.nbytes, "seconds": found.seconds, "compared": found.compared,
            "problems": [str(problem) for problem in found.problems],
        }  # fmt: skip
        if not found.ok:
            more = f" and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
            raise CkptError(f"{self.path}: {found.problems[0]}{more}")
        with Checkpoint(self.path) as checkpoint:
            refuse_regrouped(checkpoint.files, "selftest")
            index = checkpoint.index
        self.report.checkpoint = {
            "path": self.path, "id": index.id, "nbytes": index.nbytes,
            "tensors": len(index.tensors), "partitions": len(index.partitions),
            "alignment": index.alignment, "filesystem": machine.filesystem(self.path),
            "against": os.fspath(against) if against is not None else None,
        }  # fmt: skip
        compared = f", {found.compared} tensors equal the source's" if against else ""
        step.message = (
            f"{len(index.tensors)} tensors, {format_nbytes(found.nbytes)} verified in "
            f"{found.seconds:.2f} s, {format_rate(found.nbytes, found.seconds)}{compared}"
        )


def _dtypes_on(device: str) -> tuple[list[Dtype], list[str]]:
    """Dtypes that tensors on a device can have; and the names of those that they cannot."""
    torch = dtypes.import_torch()
    raw = torch.empty(512, dtype=torch.uint8, device=device)
    usable, refused = [], []
    for row in dtypes.DTYPES.values():
        if row.name.startswith(("INT", "UINT", "BITS")) or not row.torch_name:
            continue  # torch's shells, which no operator knows
        dtype: Any = getattr(torch, row.torch_name, None)
        if dtype is None:
            continue
        try:
            raw.view(dtype).view(torch.uint8).cpu()
        except (RuntimeError, TypeError):
            refused.append(row.name)
        else:
            usable.append(row)
    first = [row for row in usable if row.name in ("BF16", "F16", "F32")]
    return first + [row for row in usable if row not in first], refused
