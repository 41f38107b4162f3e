"""Checks of torch and torch_npu by the tables of versions; neither is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import base, numbers, release, train
from ckptfmt.doctor.versions import CANN_TORCH_NPU, DATE, TORCH_NPU_PYTHON, TRIED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

OLDEST = (2, 1)


@check("torch.version", "torch")
def version(case: Case) -> Iterator[Told]:
    """FAIL if it is missing and tensors are to go to a device; WARN before 2.1."""
    found = case.system.version("torch")
    if not found and case.kind != "cpu":
        yield fail(f"no torch, which {case.device} needs", "pip install torch")
    elif not found:
        yield ok('no torch; load(framework="numpy"), convert and verify work without')
    elif numbers(found) < OLDEST:
        yield warn(f"torch {found}", "ckptfmt is tested with torch 2.1 and newer")
    else:
        yield ok(f"torch {found}")


@check("torch.npu", "torch_npu with torch", kind="npu")
def npu(case: Case) -> Iterator[Told]:
    """FAIL if torch_npu is missing, or not of torch's own version, or if torch is built for CUDA,
    which torch_npu refuses."""
    torch, found = case.system.version("torch"), case.system.version("torch_npu")
    if not found:
        wanted = base(torch) if torch else "<version of torch>"
        yield fail(f"no torch_npu, which {case.device} needs", f"pip install torch-npu=={wanted}")
    elif not torch:
        yield skip("there is no torch")
    elif "+cu" in torch:
        yield fail(
            f"torch {torch} is built for CUDA, which torch_npu refuses",
            f"pip install torch=={base(torch)}+cpu",
        )
    elif release(torch) != release(found):
        number = ".".join(map(str, release(found)))
        yield fail(f"torch_npu {found} is made for torch {number}, found {torch}",
                   f"pip install torch=={number}")  # fmt: skip
    else:
        yield ok(f"torch_npu {found} with torch {torch}")


@check("torch.cann", "torch_npu with CANN", kind="npu")
def cann(case: Case) -> Iterator[Told]:
    """FAIL if torch_npu is made for a newer CANN than the one that would be loaded; WARN if that
    has been seen to work in part, or if the CANN is newer."""
    found = case.system.version("torch_npu")
    here = case.cann_version
    if not found or not here:
        yield skip("not both are known")
        return
    wanted = made_for(found)
    if wanted is None:
        yield skip(f"torch_npu {found} is not in the tables of {DATE}; CANN here is {here}")
        return
    if train(wanted) == train(here):
        yield ok(f"torch_npu {found} is made for CANN {wanted}; this is {here}")
        return
    told = f"torch_npu {found} is made for CANN {wanted}; this is {here}"
    fix = _instead(here, found)
    tried = TRIED.get((base(found), here))
    if train(here) > train(wanted):
        yield warn(f"{told}, which is newer", fix)
    elif tried:
        yield warn(f"{told}: {tried}", fix)
    else:
        yield fail(told, fix)


@check("torch.python", "torch_npu with Python", kind="npu")
def python(case: Case) -> Iterator[Told]:
    """FAIL if torch_npu of this version is not made for this Python."""
    found, here = case.system.version("torch_npu"), case.system.python
    for releases, first, last in TORCH_NPU_PYTHON:
        if ".".join(map(str, train(found))) not in releases.split() or not here:
            continue
        told = f"torch_npu {found} is made for Python {first} to {last}; this is {here}"
        if numbers(first) <= train(here) <= numbers(last):
            yield ok(told)
        else:
            yield fail(told, f"use Python {last}")
        return
    yield skip("torch_npu or Python is not there" if not found or not here
               else f"torch_npu {found} is not in the tables of {DATE}")  # fmt: skip


def made_for(torch_npu: str) -> str | None:
    """The CANN that a torch_npu is made for; None if the tables do not have it."""
    for release_of_cann, versions in CANN_TORCH_NPU:
        if base(torch_npu) in versions.split():
            return release_of_cann
    return None


def _instead(cann_here: str, torch_npu: str) -> str:
    """What goes with a CANN, or which CANN goes with what is there."""
    for release_of_cann, versions in CANN_TORCH_NPU:
        if release_of_cann == cann_here:
            first = versions.split()[0]
            number = ".".join(map(str, release(first)))
            return f"torch {number} + torch_npu {first}, or CANN {made_for(torch_npu)}"
    return f"install CANN {made_for(torch_npu)}"
