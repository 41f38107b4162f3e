"""Loads whose calls, reads or files fail: told rightly, nothing left, and on it goes."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ckptfmt
from ckptfmt.acl_codes import name_of
from ckptfmt.errors import CleanupWarning
from ckptfmt.staging import WHAT
from tests.helpers.npu_cases import held
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    KIND,
    WrongBytesError,
    check_all,
    check_equal,
    device_of,
    expected,
    forget_probes,
    last_stats,
    load,
    options,
    path_of,
    simulated,
)  # fmt: skip

MiB = 1 << 20
#: Each of these gives something back. If it fails, that is lost, but the load has done its work.
RELEASING = {
    "aclrtHostUnregister": "registered",
    "aclrtFreeHost": "host",
    "aclrtDestroyEvent": "events",
    "aclrtDestroyStream": "streams",
    "cudaEventDestroy": "events",
    "cudaStreamDestroy": "streams",
}
#: torch's way to get device memory; refused once, it asks again.
ALLOCATING = "aclrtMallocAlign32" if KIND == "npu" else "cudaMalloc"
#: Asked for to be told; a load can do without.
TELLING = {"aclrtGetSocName"}
#: Brings a thread to a device; if it fails while something is to be given back, that is lost.
ENTERING = {"aclrtGetCurrentContext", "aclrtSetDevice"}
LEAVING = "aclrtSetCurrentContext"
#: "None", which is what a new thread has.
NO_CONTEXT = ("aclrtGetCurrentContext", 107002)
#: Called until the answer is yes: how often, depends.
POLLED = {"aclrtQueryEventStatus", "aclrtQueryEvent", "aclrtSynchronizeEvent",
          "cudaEventQuery", "cudaEventSynchronize"}  # fmt: skip
#: What torch makes an out-of-memory error of.
OUT_OF_MEMORY = {207001, 2}
#: What queues a copy, and what waits for a stream.
COPY_ASYNC, WAIT = (
    ("aclrtMemcpyAsync", "aclrtSynchronizeStream") if KIND == "npu"
    else ("cudaMemcpyAsync", "cudaStreamSynchronize")
)  # fmt: skip


def load_tiny(staging: str, way: str = "load") -> dict[str, Any]:
    """Several copies and slots of two workers, on a link slow enough for them to be waited for."""
    reads = "buffered" if staging == "E" else "direct"  # not by what is cached: as many each time
    given = options(staging=staging, op_nbytes=MiB, threads=2, depth=2, reads=reads)
    with simulated(h2d=1), ckptfmt.open(path_of("tiny"), options=given) as checkpoint:
        if way == "stream":
            return dict(checkpoint.stream(device=D0, max_nbytes=2 * MiB))
        if way == "auto":
            return checkpoint.load(device={"": D0, "layers.2": D1})
        if way == "cast":
            return checkpoint.load(device=D0, dtype="bf16")
        if way == "load_into":
            target = {n: torch.empty_like(t, device=D0) for n, t in expected("tiny").items()}
            checkpoint.load_into(target)
            return target
        return checkpoint.load(device=D0)


def check_tiny(found: dict[str, Any], way: str) -> None:
    """All of it, as it comes in each way."""
    if way == "cast":
        for name, tensor in expected("tiny").items():
            check_equal(name, found[name], tensor.bfloat16())
    elif way == "load_into":  # tied names are asked for one by one
        for name, tensor in expected("tiny").items():
            check_equal(name, found[name], tensor)
    else:
        there = D1 if way == "auto" else D0
        check_all(found, "tiny", lambda name: there if name.startswith("layers.2.") else D0)


@cache
def calls_of(staging: str, probing: bool, way: str = "load") -> dict[str, int]:
    """What a load calls, and how often; by torch too."""
    load_tiny(staging, way)
    held(Simulator())  # so that torch has to ask for memory again
    if probing:
        forget_probes()
    before = Simulator().account()["calls"]
    load_tiny(staging, way)
    after = Simulator().account()["calls"]
    made = {name: n - before.get(name, 0) for name, n in after.items()}
    return {name: n for name, n in made.items() if n}


def calls(staging: str, probing: bool, expected: list[str]) -> None:
    """Every function that the tests of failures name is called, and no other."""
    found = calls_of(staging, probing)
    assert sorted(found) == sorted(expected), set(found) ^ set(expected)


def at(
    staging: str, function: str, codes: list[int], probing: bool = False, way: str = "load",
    first_only: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Fail at the first call of a function, at a later one, and at the last, with each code."""
    before = held(Simulator())
    n_calls = calls_of(staging, probing, way).get(function, 0)
    if way != "load" and n_calls == 0:
        return {}
    numbers = {1, n_calls // 2 + 1, n_calls} if function not in POLLED else {1}
    if first_only:
        numbers = {1}
    problems = []
    for n in sorted(numbers):
        for code in codes:
            problem = _fail_at(staging, function, n, code, probing, way)
            if problem:
                problems.append(f"{function}:{n}={code} of {n_calls}: {problem}")
    assert not problems, "\n".join(problems)
    # Each of them has been looked at; what could not be given back is still there.
    after = held(Simulator())
    return {kind: n - before[kind] for kind, n in after.items() if n != before[kind]}


def _fail_at(staging: str, function: str, n: int, code: int, probing: bool, way: str) -> str:
    simulator = Simulator()
    before = held(simulator)
    n_injected = simulator.account()["injected"]
    if probing:
        forget_probes()
    found: dict[str, Any] = {}
    error: Exception | None = None
    simulator.fail(f"{function}:{n}{'+' if function == ALLOCATING else ''}={code}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = load_tiny(staging, way)
        except Exception as caught:
            error = caught.with_traceback(None)
            error.__context__ = error.__cause__ = None
    simulator.fail("")
    if simulator.account()["injected"] == n_injected:
        return "was never reached"
    problem = _judge(function, code, probing, found, error, [str(w.message) for w in told], way)
    del found, error
    after = held(simulator)
    left = {kind: n - before[kind] for kind, n in after.items() if n != before[kind]}
    if left not in _may_be_left(function, bool(told)):
        problem += f" left behind: {left}"
    check_tiny(load_tiny(staging, way), way)
    return problem


def _may_be_left(function: str, told: bool) -> list[dict[str, int]]:
    """What may not have been given back, if that was told."""
    if not told:
        return [{}]
    if function in RELEASING:
        return [{RELEASING[function]: 1}]
    return [{kind: 1} for kind in RELEASING.values()] if function in ENTERING else [{}]


def _judge(
    function: str, code: int, probing: bool, found: dict[str, Any], error: Exception | None,
    told: list[str], way: str,
) -> str:  # fmt: skip
    """What is wrong with how a failure was told."""
    if error is None:
        return _judge_success(function, code, found, told, way)
    if told:
        return f"warnings beside {error!r}: {told}"
    if function == ALLOCATING and code in OUT_OF_MEMORY:
        good = isinstance(error, ckptfmt.OutOfMemoryError)
    elif isinstance(error, ckptfmt.DeviceError) and not error.call:  # torch has called it
        good = error.code == code and str(code) in str(error)
    elif probing and isinstance(error, ckptfmt.OptionError):
        # A strategy that was asked for; why it cannot be had is what the runtime said.
        good = function in str(error) or "pinned" in str(error)
    else:
        texts = [function, str(code)]
        if KIND == "npu":
            texts += [name_of(code), f"injected failure {code}"]
        good = (
            isinstance(error, ckptfmt.DeviceError)
            and (error.call, error.code) == (function, code)
            and all(text in str(error) for text in texts)
        )
    return "" if good else f"{error!r}"


def _judge_success(
    function: str, code: int, found: dict[str, Any], told: list[str], way: str
) -> str:
    """The same of a load that came to its end: by its bytes and by its warnings."""
    if not found:
        return "no tensors, and no error"
    try:
        check_tiny(found, way)
    except WrongBytesError as wrong:
        return f"no error, and wrong bytes: {wrong}"
    if function in TELLING or (function, code) == NO_CONTEXT:
        return f"warnings: {told}" if told else ""
    is_told = any(function in text and str(code) in text for text in told)
    if is_told and (function in RELEASING or function in ENTERING or function == LEAVING):
        return ""
    return f"not told; {last_stats().staging}; warnings: {told}"


def deferred(staging: str, codes: list[int]) -> None:
    """Copies that fail when they run: whoever waits for them is told."""
    n_copies = calls_of(staging, False)[COPY_ASYNC]
    simulator = Simulator()
    for n in sorted({1, n_copies // 2, n_copies}):
        for code in codes:
            before = held(simulator)
            simulator.fail(f"@aclrtMemcpyAsync:{n}={code}")
            try:
                load_tiny(staging)
            except ckptfmt.DeviceError as error:
                assert error.call in {WAIT, *POLLED}, f"{n}: {error!r}"
                if KIND == "npu":
                    assert error.code == code, f"{n}: {error!r}"
                    assert f"injected failure {code}" in str(error), f"{n}: {error!r}"
            else:
                raise AssertionError(f"copy {n} failed with {code}, and nobody was told")
            simulator.fail("")
            assert held(simulator) == before, f"{n}={code}"
            check_all(load_tiny(staging), "tiny")


def cannot_be_waited_for(staging: str) -> dict[str, int]:
    """If waiting itself fails, memory that may still be read is kept for ever, and that is said."""
    simulator = Simulator()
    load_tiny(staging)
    before = held(simulator)
    # Neither events nor streams can be waited for, so the workers cannot know.
    broken = 507010 if KIND == "npu" else 719
    waits = "aclrtSynchronizeEvent" if KIND == "npu" else "cudaEventSynchronize"
    rules = f"{WAIT}:*={broken},{waits}:*={broken}"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        simulator.fail(rules)
        try:
            load_tiny(staging)
        except ckptfmt.DeviceError as error:
            assert error.code == broken, f"{error!r}"
        else:
            raise AssertionError("nobody was told")
        finally:
            simulator.fail("")
    assert [w for w in told if issubclass(w.category, CleanupWarning)], told
    after = held(simulator)
    check_all(load_tiny(staging), "tiny")
    left = {name: n - before[name] for name, n in after.items() if n != before[name]}
    assert left.pop("streams") > 0
    assert left.pop("events") > 0
    assert left.pop("device") > 0
    assert left == ({"registered": 1} if staging in "AB" else {"host": 1})
    return {name: n - before[name] for name, n in after.items()}


# ---- what is refused at the start ----


def falls_back(rules: str, letter: str, because: list[str]) -> None:
    """The next strategy is taken, and the statistics say why."""
    forget_probes()
    simulator = Simulator()
    simulator.fail(rules)
    try:
        found = load("tiny")
    finally:
        simulator.fail("")
        forget_probes()
    check_all(found, "tiny")
    stats = last_stats()
    assert stats.staging.startswith(f"{letter}: "), stats.staging
    for text in because:
        assert text in stats.staging, stats.staging


def none_left(rules: str) -> None:
    """No strategy works: one error that has all reasons."""
    forget_probes()
    simulator = Simulator()
    simulator.fail(rules)
    try:
        load("tiny")
    except ckptfmt.DeviceError as error:
        for letter in WHAT[KIND]:
            assert letter in "EG" or f"not {letter}: " in str(error), error
    else:
        raise AssertionError("there was nothing to copy with")
    finally:
        simulator.fail("")
        forget_probes()
    check_all(load("tiny"), "tiny")


def out_of_memory(device: Any) -> None:
    """A model that does not fit: an error with what is free, and all that was taken is back."""
    simulator = Simulator()
    before = held(simulator)
    try:
        load("large", device)
    except ckptfmt.OutOfMemoryError as error:
        assert f"{KIND}:" in str(error), error
        assert error.hint
    else:
        raise AssertionError("there is no such memory")
    assert held(simulator) == before
    check_all(load("tiny"), "tiny")


# ---- files ----


@contextmanager
def copy_of(model: str) -> Iterator[Path]:
    """A checkpoint that may be changed."""
    with tempfile.TemporaryDirectory(dir=os.environ["NPU_CASES_FOLDER"]) as folder:
        yield Path(shutil.copytree(path_of(model), f"{folder}/copy"))


def flip(path: Path, tensor: str) -> int:
    """Change a bit in the middle of a tensor; the byte's offset in its partition."""
    with ckptfmt.open(path) as checkpoint:
        extent = checkpoint.info(tensor).extents[0]
        file = Path(checkpoint.files.partitions[extent.partition].path)
    at_byte = extent.offset + extent.nbytes // 2
    with file.open("r+b") as stream:
        stream.seek(at_byte)
        old = stream.read(1)[0]
        stream.seek(at_byte)
        stream.write(bytes([old ^ 4]))
    return at_byte


def damaged(staging: str, device: Any = D0) -> None:
    """A bit that has changed on the disk is found, and named, before the tensors are handed out."""
    simulator, device = Simulator(), device_of(device)
    with copy_of("tiny") as path:
        at_byte = flip(path, "layers.2.weight")
        given = options(staging=staging)
        before = held(simulator)
        try:
            ckptfmt.load(path, device=device, options=given)
        except ckptfmt.ChecksumError as error:
            assert error.tensor == "layers.2.weight"
            assert error.offset <= at_byte < error.offset + error.nbytes
        else:
            raise AssertionError("the damage was not seen")
        assert held(simulator) == before
        ckptfmt.load(path, device=device, options=given, verify=False)  # not looked at: not seen
    check_all(load("tiny", staging=staging), "tiny")


def read_fails(staging: str, rules: list[str], code: int, **given: Any) -> None:
    """A read that the system refuses."""
    simulator = Simulator()
    load("tiny", staging=staging, **given)
    before = held(simulator)
    _set_faults(rules)
    try:
        load("tiny", staging=staging, op_nbytes=MiB, **given)
    except ckptfmt.FileError as error:
        assert error.errno == code, f"{error!r}"
        assert "part-" in error.filename
    else:
        raise AssertionError(f"nobody was told of {errno.errorcode[code]}")
    finally:
        _set_faults([])
    assert held(simulator) == before
    check_all(load("tiny", staging=staging, **given), "tiny")


def _set_faults(rules: list[str]) -> None:
    """For the library of tests/fakes/faulty_io.c, which this child is under."""
    os.environ["FAULTY_IO"] = "\n".join(rules)
    ctypes.CDLL(None).faulty_io_set()


def cut_short(staging: str) -> None:
    """A file that loses its end while it is open."""
    simulator = Simulator()
    with copy_of("tiny") as path:
        given = options(staging=staging)
        ckptfmt.load(path, device=D0, options=given)
        before = held(simulator)
        with ckptfmt.open(path, options=given) as checkpoint:
            file = Path(checkpoint.files.partitions[-1].path)
            os.truncate(file, file.stat().st_size // 2)
            try:
                checkpoint.load(device=D0)
            except ckptfmt.FormatError as error:
                assert "ended" in str(error), error
            else:
                raise AssertionError("nobody noticed")
        del checkpoint
        assert held(simulator) == before
