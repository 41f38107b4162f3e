"""Ctrl-C while copies are on a slow link: the load ends, and nothing is on its way after it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import ckptfmt
from ckptfmt.engine import slots_of
from tests.helpers.npu_cases import held
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    check_all,
    check_equal,
    expected,
    load,
    options,
    path_of,
    simulated,
)  # fmt: skip

#: Of the link, in GB/s: a load of `large` would take seconds.
SLOW = 0.02
#: Of each device, with one worker and one read in flight; an op of 1 MiB may be a block larger.
IN_SLOTS = slots_of(1) * (2 << 20)
#: After a Ctrl-C nothing new is read once this has passed.
STOP_S = 0.2


def _load(given: ckptfmt.LoadOptions, progress: Any = None) -> None:
    ckptfmt.load(path_of("large"), device=D0, options=given, progress=progress)


def _load_with_progress(given: ckptfmt.LoadOptions) -> None:
    _load(given, lambda done, total: None)


def _two(given: ckptfmt.LoadOptions) -> None:
    ckptfmt.load(path_of("large"), device={"": D0, "layers.0": D1}, options=given)


def _load_into(given: ckptfmt.LoadOptions) -> None:
    target = {name: torch.empty_like(t, device=D0) for name, t in expected("large").items()}
    with ckptfmt.open(path_of("large"), options=given) as checkpoint:
        checkpoint.load_into(target)


def _stream(given: ckptfmt.LoadOptions) -> None:
    with ckptfmt.open(path_of("large"), options=given) as checkpoint:
        for _ in checkpoint.stream(device=D0, max_nbytes=12 << 20):
            pass


WAYS: dict[str, Callable[[ckptfmt.LoadOptions], None]] = {
    "load": _load, "progress": _load_with_progress, "two": _two, "load_into": _load_into,
    "stream": _stream,
}  # fmt: skip


@contextmanager
def interrupting(times: int) -> Iterator[None]:
    """Press Ctrl-C as soon as the first bytes have come over the link, and again after that."""
    simulator = Simulator()
    start = simulator.account()["h2d_nbytes"]
    done = threading.Event()

    def press() -> None:
        while not done.wait(0.002):
            if simulator.account()["h2d_nbytes"] > start:
                break
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            if done.wait(0.05):
                return

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def interrupted(way: str, staging: str, times: int = 1) -> None:
    """One Ctrl-C, or some: what is on its way arrives, and nothing more is begun."""
    simulator = Simulator()
    given = options(staging=staging, op_nbytes=1 << 20, depth=1, threads=1)
    load("tiny", {"": D0, "layers.1": D1}, staging=staging)  # the probes
    before = held(simulator)
    n_before = simulator.account()["h2d_nbytes"]
    total = sum(t.nbytes for t in {t.data_ptr(): t for t in expected("large").values()}.values())
    try:
        with simulated(h2d=SLOW), interrupting(times):
            WAYS[way](given)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not interrupted")
    account = simulator.account()
    arrived = account["h2d_nbytes"]
    assert [s for s in account["live"]["streams"] if s["pending"]] == []
    n_devices = 2 if way == "two" else 1
    # What was in slots, and what took its place until the Ctrl-C was seen.
    bound = n_devices * (IN_SLOTS + int(STOP_S * SLOW * 1e9) + (1 << 20))
    assert arrived - n_before <= bound, "it went on reading"
    assert total > bound, "all of it may be on its way at once, and nothing is shown"
    time.sleep(0.05)
    assert simulator.account()["h2d_nbytes"] == arrived, "something was still on its way"
    assert held(simulator) == before
    check_all(load("large", staging=staging), "large")


def stream_left(staging: str) -> None:
    """A consumer that goes away after the first tensor: what is read ahead is given back."""
    simulator = Simulator()
    load("tiny", staging=staging)
    before = held(simulator)
    with ckptfmt.open(path_of("large"), options=options(staging=staging)) as checkpoint:
        with simulated(h2d=0.2):
            found = checkpoint.stream(device=D0, max_nbytes=12 << 20)
            name, tensor = next(found)
            found.close()  # type: ignore[attr-defined]
        check_equal(name, tensor, expected("large")[name])
    del found, tensor, checkpoint
    assert held(simulator) == before
