"""Loads between torch's operators: on memory that they still write and read, and right after them.

torch's stream is held up while the load begins. Operators that are queued behind that, and that a
load does not wait for, write over what it has loaded. So that these tests are known to see that,
each can be run with the loader's waiting taken out, and then has to go wrong.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest import mock

import torch

import ckptfmt
from ckptfmt.accelerator import Accelerator
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    KIND,
    MODULE,
    WrongBytesError,
    as_bytes,
    check_all,
    check_equal,
    expected,
    load,
    options,
    path_of,
    simulated,
)  # fmt: skip

Tensors = dict[str, torch.Tensor]

DEVICE = D0


#: How long a stream is held up for a load that waits; one that does not is done before or after.
HELD_UP_S = 0.1


@contextmanager
def never_waiting() -> Iterator[None]:
    """The loader without what orders it behind torch."""

    @contextmanager
    def unordered(self: Accelerator) -> Iterator[int]:
        yield 0

    with (
        mock.patch.object(Accelerator, "ordered", unordered),
        mock.patch.object(Accelerator, "wait_for_torch", return_value=None),
    ):
        yield


#: As it is; compared, to see whether it has been taken out.
ORDERED = Accelerator.ordered


class Gate:
    """Holds up torch's current stream: what is queued behind it runs once it is opened."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: self.is_open.wait(60))
        stream = ctypes.c_void_p(getattr(MODULE.current_stream(), f"{KIND}_stream"))
        code = Simulator().library.aclrtLaunchCallback(self.function, None, 1, stream)
        assert code == 0, code


@contextmanager
def held_up() -> Iterator[None]:
    """torch's work waits: for a while, or to the end if the loader does not wait for it."""
    gate = Gate()
    later = threading.Timer(HELD_UP_S, gate.is_open.set)
    if Accelerator.ordered is ORDERED:
        later.start()
    try:
        yield
    finally:
        later.cancel()
        gate.is_open.set()
        MODULE.synchronize()  # only then may the function go


def memory_of(tensors: Tensors) -> list[torch.Tensor]:
    """The allocations that tensors are in, as bytes, each once."""
    found = {}
    for tensor in tensors.values():
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in found:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            found[storage.data_ptr()] = whole.set_(storage)
    return list(found.values())


def spoil(tensors: Tensors) -> set[int]:
    """Queue fills, copies and additions on the tensors' memory; where it is."""
    memory = memory_of(tensors)
    for whole in memory:
        whole.zero_()
        if len(whole) < 4096:
            continue
        half = len(whole) // 128 * 64  # before CANN 8.5 copies begin at multiples of 64
        whole[:256].fill_(0x5A)
        whole[half : half + 256].copy_(whole[:256])
        if KIND == "npu":  # the fake CUDA has no such operator that does not wait
            whole[half : half + 512].add_(3)
        whole[:half].copy_(torch.zeros_like(whole[:half]))
    return {whole.data_ptr() for whole in memory}


# ---- what torch was given before ----


def memory_reused(staging: str, sync_copy: bool = False) -> None:
    """Memory whose tensors have died, while torch still has work for it."""
    given = {"staging": staging, "sync_copy": sync_copy}
    found = load("large", **given)
    with held_up():
        where = spoil(found)
        found = {}
        found = load("large", **given)
    check_reused(found, where)


def check_reused(found: Tensors, where: set[int]) -> None:
    """The same memory, and all bytes right."""
    assert {whole.data_ptr() for whole in memory_of(found)} & where, "no memory came again"
    check_all(found, "large")


def user_stream(staging: str) -> None:
    """The same on a stream of the caller's."""
    with MODULE.stream(MODULE.Stream()):
        found = load("large", staging=staging)
        with held_up():
            where = spoil(found)
            found = {}
            found = load("large", staging=staging)
        check_reused(found, where)


def other_thread(staging: str) -> None:
    """Work that this thread has queued, a load in another."""
    found = load("large", staging=staging)
    with ThreadPoolExecutor(1) as thread:
        with held_up():
            where = spoil(found)
            found = {}
            found = thread.submit(load, "large", staging=staging).result()
        check_reused(found, where)


def filled_in_place(staging: str) -> None:
    """``load_into`` over tensors that torch is still writing."""
    target = {name: torch.empty_like(t, device=DEVICE) for name, t in expected("tiny").items()}
    with ckptfmt.open(path_of("tiny")) as checkpoint:
        with held_up():
            spoil(target)
            checkpoint.load_into(target, options=options(staging=staging))
        for name, tensor in target.items():
            check_equal(name, tensor, expected("tiny")[name])


def read_before_filled(staging: str) -> None:
    """Copies that torch was told to make of the old values have the old values."""
    wanted = expected("tiny")
    target = {n: torch.full(t.shape, 7, dtype=t.dtype, device=DEVICE) for n, t in wanted.items()}
    with ckptfmt.open(path_of("tiny")) as checkpoint:
        with held_up():
            copies = {name: tensor.clone() for name, tensor in target.items()}
            checkpoint.load_into(target, options=options(staging=staging))
        for name, tensor in copies.items():
            check_equal(f"the copy of {name}", tensor, torch.full_like(wanted[name], 7))
        for name, tensor in target.items():
            check_equal(name, tensor, wanted[name])


def streamed(staging: str) -> None:
    """Each tensor is copied, written over and dropped while the next ones are being read."""
    copies: Tensors = {}
    with simulated(operator_us=3000), ckptfmt.open(path_of("large")) as checkpoint:
        given = options(staging=staging, op_nbytes=1 << 20)
        for name, tensor in checkpoint.stream(max_nbytes=12 << 20, device=DEVICE, options=given):
            copies[name] = tensor.clone()
            if name != "layers.1.weight":  # it is tied, and comes again
                tensor.zero_()
                as_bytes(tensor)[:64].fill_(9)
            del tensor
    for name, tensor in copies.items():
        check_equal(name, tensor, expected("large")[name])


BEFORE: dict[str, Callable[[str], None]] = {
    f.__name__: f
    for f in (memory_reused, user_stream, other_thread, filled_in_place, read_before_filled,
              streamed)
}  # fmt: skip


def goes_wrong_without_waiting(scenario: str, staging: str) -> None:
    """The test of the test: without its waiting the loader gives wrong bytes, and it is seen."""
    with never_waiting():
        try:
            BEFORE[scenario](staging)
        except (WrongBytesError, ckptfmt.ChecksumError):
            return  # in RC mode it may be seen while the bytes are verified, where they are
        finally:
            MODULE.synchronize()
    raise AssertionError("nothing was wrong, though nothing was waited for")


# ---- again and again ----


def many_times(staging: str, count: int) -> None:
    """Load, spoil, drop, load: the same memory each time, and never a wrong byte."""
    wrong, again = [], 0
    stream = MODULE.Stream()
    found = load("tiny", staging=staging)
    with simulated(operator_us=300):
        for turn in range(count):
            where = spoil(found)
            found = {}
            with MODULE.stream(stream if turn % 5 == 4 else MODULE.default_stream()):
                found = load("tiny", staging=staging)
                again += bool({whole.data_ptr() for whole in memory_of(found)} & where)
                # Operators at once, on this stream; what they give is looked at below.
                some = list(found)[turn % 3 :: 3]
                sums = {name: found[name] + found[name] for name in some}
                try:
                    check_all(found, "tiny")
                    for name, total in sums.items():
                        wanted = expected("tiny")[name]
                        check_equal(f"the double of {name}", total, wanted + wanted)
                except WrongBytesError as error:
                    wrong.append(f"turn {turn}: {error}")
            if turn % 5 == 4:
                MODULE.current_stream().wait_stream(stream)
    assert not wrong, wrong
    assert again > count // 2, f"memory came again only {again} times"


# ---- what torch is given afterwards ----


def used_at_once(staging: str) -> dict[str, int]:
    """Operators on what has just been loaded, on this stream and on others; all work comes late."""
    others = [MODULE.Stream() for _ in range(3)]
    n_pinned = Simulator().live()["host"]
    pinned = {
        name: torch.empty_like(t).pin_memory() if KIND == "npu" else torch.empty_like(t)
        for name, t in expected("tiny").items()
    }
    n_pinned = Simulator().live()["host"] - n_pinned
    with simulated(delay_us=20_000, latency_us=200):
        found = load("tiny", staging=staging, op_nbytes=1 << 20)
        doubled = {name: tensor * 2 for name, tensor in found.items()}
        copied = {}
        for i, (name, tensor) in enumerate(found.items()):
            with MODULE.stream(others[i % 3]):
                copied[name] = tensor.clone()
        for name, tensor in found.items():
            pinned[name].copy_(tensor, non_blocking=True)
        MODULE.synchronize()
        for name, wanted in expected("tiny").items():
            check_equal(name, found[name], wanted)
            check_equal(f"2 × {name}", doubled[name], wanted * 2)
            check_equal(f"the copy of {name}", copied[name], wanted)
            check_equal(f"the pinned copy of {name}", pinned[name], wanted)
    return {"host": n_pinned}  # torch keeps pinned memory


def slots_are_not_filled_early(staging: str) -> None:
    """A slow link and a small pool: each slot is read into again as soon as it may be."""
    with simulated(h2d=0.4, latency_us=300):
        found = load("large", staging=staging, op_nbytes=1 << 20, depth=32, threads=2)
        check_all(found, "large")
