"""Loads, each in one of the many ways there are."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import Any

import ckptfmt
from ckptfmt import engine, staging
from ckptfmt.checkpoint_files import CheckpointFiles
from ckptfmt.devices import bring_up
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    KIND,
    check_all,
    expected,
    forget_probes,
    last_stats,
    load,
    path_of,
    there,
)  # fmt: skip

#: Forces a strategy.
VARIABLE = f"CKPTFMT_{KIND.upper()}_STAGING"
#: Half of the layers each; tied names stay together.
TWO = {"layers.1": D1, "layers.3": D1, "": D0}


def equal(model: str, two: bool, io: str, verify: bool = True, **given: Any) -> None:
    """Everything is where it should be, and the statistics say what was done."""
    device = TWO if two else D1
    before = Simulator().account()
    found = load(model, device, io=io, verify=verify, **given)
    after = Simulator().account()
    stats = last_stats()

    check_all(found, model, (lambda name: _owner(model, name)) if two else D1)
    staged, reads = given["staging"], given["reads"]
    assert stats.staging.startswith(f"{staged}: "), stats.staging
    assert set(stats.devices) == ({D0, D1} if two else {D1})
    wanted = {t.data_ptr(): t.nbytes for t in expected(model).values()}
    assert stats.nbytes == sum(wanted.values())
    assert stats.read_nbytes >= stats.nbytes
    assert stats.verified_nbytes == (stats.nbytes if verify else 0)
    assert stats.peak_pool_nbytes <= (2 if two else 1) * (16 << 20)
    is_direct = reads == "direct" and staged != "E"
    for file in stats.files.values():
        assert (file.direct_nbytes > 0) == is_direct, file
        assert (file.buffered_nbytes > 0) == (not is_direct), file
    has_ring = engine.io_uring_errno() == 0
    assert stats.engine == ("io_uring" if io == "io_uring" and is_direct and has_ring else "pread")
    if KIND == "npu" and (staged == "D" or given["sync_copy"]):
        # Each probe makes one.
        assert after["async_copies"] - before["async_copies"] <= (2 if two else 1)
    refused = {n for n, k in after["refused"].items() if k != before["refused"].get(n, 0)}
    assert refused <= {"aclrtGetDevice"}, refused  # by torch, in each new thread
    waited = KIND == "cuda" and staged == "D"  # asynchronous, from memory that is not pinned
    for counted in ("corrupted_copies", *([] if waited else ["pageable_copies"])):
        assert after[counted] == before[counted]
    if staged == "E":
        assert after["h2d_nbytes"] == before["h2d_nbytes"]


def _owner(model: str, name: str) -> str:
    """As `TWO` says; a tied name goes where the one is that a key names."""
    if name.startswith("tied."):
        tied = expected(model)[name]
        name = next(n for n, t in expected(model).items() if t is tied and n != name)
    if name == "head.weight":
        name = "layers.1.weight"
    return TWO.get(".".join(name.split(".")[:2]), D0)


def chosen(letter: str, refused: list[str]) -> None:
    """Left to itself, the best strategy is taken, and why no better one is said."""
    forget_probes()
    check_all(load("tiny"), "tiny")
    stats = last_stats()
    assert stats.staging.startswith(f"{letter}: "), stats.staging
    assert re.findall(r"\bnot ([A-E]): ", stats.staging) == refused


def admitted(letters: str) -> None:
    """What the probe says can be had, and why the rest cannot."""
    with closing(CheckpointFiles(path_of("tiny"))) as files:
        found = staging.admitted(bring_up(D0), files.partitions)
    assert {letter for letter, reason in found.items() if not reason} == set(letters)
    assert all(len(reason) > 8 for letter, reason in found.items() if letter not in letters)


def named_by_the_environment(letter: str) -> None:
    """A variable forces one, and what cannot be had is an error that says so."""
    os.environ[VARIABLE] = letter
    try:
        check_all(ckptfmt.load(path_of("tiny"), device=D0), "tiny")
    finally:
        del os.environ[VARIABLE]
    assert last_stats().staging.startswith(f"{letter}: ")


def refused(letter: str, because: str) -> None:
    """A strategy that was asked for and cannot be had."""
    forget_probes()
    try:
        load("tiny", staging=letter)
    except ckptfmt.OptionError as error:
        assert because in str(error), error
        assert "auto" in (error.hint or "")
    else:
        raise AssertionError(f"{letter} cannot be had here")


def some(names: list[str]) -> None:
    """Chosen names only, in the order of the file."""
    found = load("large", names=names)
    check_all(found, "large", names=[n for n in expected("large") if n in found])
    assert 0 < len(found) < len(expected("large"))


def sixteen_at_once(model: str) -> None:
    """From threads of their own; they share the checkpoint and the device."""
    from concurrent.futures import ThreadPoolExecutor

    with ckptfmt.open(path_of(model)) as checkpoint, ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(checkpoint.load, device=there(i % 2)) for i in range(16)]
        for i, job in enumerate(jobs):
            check_all(job.result(), model, there(i % 2))
