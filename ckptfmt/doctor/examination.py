"""All checks made, one after another; none that fails keeps the others from being made."""

from __future__ import annotations

import time
from types import ModuleType

from ckptfmt.doctor import cann, cuda, driver, machine, memory, probe, python, torch, vllm
from ckptfmt.doctor.case import Case, choose_device, weight_nbytes
from ckptfmt.doctor.findings import Check, Finding, Report, Told, skip, warn
from ckptfmt.doctor.system import System
from ckptfmt.errors import FileError, OptionError

#: By subject, in the order of the report.
SUBJECTS: tuple[ModuleType, ...] = (
    machine, memory, python, torch, cann, driver, cuda, vllm, probe,
)  # fmt: skip
CHECKS: tuple[Check, ...] = tuple(
    value for subject in SUBJECTS for value in vars(subject).values() if isinstance(value, Check)
)


def run(
    device: str | None = None, *, root: str | None = None, checkpoint: str | None = None
) -> Report:
    """Look at a machine.

    Parameters
    ----------
    device : str, optional
        ``"cpu"``, ``"npu:0"``, ``"cuda:0"``; what the machine seems to be for if not given.
    root : str, optional
        A tree of files that describes another machine (docs/doctor.md).
    checkpoint : str, optional
        What is to be loaded: a checkpoint, or a source of one. Its disk is tried, and its size held
        against free memory.

    Returns
    -------
    Report
        Findings of all checks.

    Raises
    ------
    OptionError
        There is no such kind of device, the root is no folder, or the checkpoint has no weights.
    NotFoundError
        There is no such checkpoint.
    """
    began = time.perf_counter()
    system = System(root)
    if root is not None and not system.is_folder("/"):
        raise OptionError(f"root is {root!r}, which is no folder")
    if checkpoint is not None:
        weight_nbytes(checkpoint)
    name, reason = choose_device(system, device)
    case = Case(system, name, reason, checkpoint)
    report = Report(name, reason, root)
    for one in CHECKS:
        report.findings += [
            Finding(one.id, told.level, one.concerns, one.looked_at, told.found, told.fix)
            for told in _made(one, case)
        ]
    report.seconds = time.perf_counter() - began
    return report


def _made(one: Check, case: Case) -> list[Told]:
    """What a check says; that it could not be made is a finding, too."""
    if one.kind == "device" and case.kind == "cpu":
        return [skip("for NPUs and GPUs: the device is cpu")]
    if one.kind in ("npu", "cuda") and one.kind != case.kind:
        return [skip(f"for {'NPUs' if one.kind == 'npu' else 'GPUs'}: the device is {case.kind}")]
    if one.is_live and not case.system.is_live:
        return [skip("not tried: the root describes another machine")]
    try:
        return [_weighed(one, told, case) for told in one.function(case)]
    except FileError as error:
        reason = error.message
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
    except Exception as error:  # files of others hold anything; the other checks go on
        reason = f"{type(error).__name__}: {error}"
    return [_unmade(reason)]


def _weighed(one: Check, told: Told, case: Case) -> Told:
    """What files say cannot work, and what was seen to work: the latter counts."""
    is_of_files = one.kind in ("npu", "cuda") and one.concerns == "ckptfmt"
    if told.level != "FAIL" or not is_of_files or case.tried is None or not case.tried.works:
        return told
    return warn(f"{told.found}; copies to {case.device} work all the same", told.fix)


def _unmade(reason: str) -> Told:
    return warn(
        f"the check could not be made: {reason}",
        "mend what it names; else it is a mistake in ckptfmt",
    )
