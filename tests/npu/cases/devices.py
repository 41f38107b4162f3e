"""Several devices: who gets what, all at the same time, and one for all when something fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

import ckptfmt
from tests.helpers.npu_cases import held
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    KIND,
    MODULE,
    check_all,
    check_equal,
    device_of,
    expected,
    last_stats,
    load,
    options,
    path_of,
    simulated,
    there,
)  # fmt: skip
from tests.npu.cases.faults import copy_of, flip

MiB = 1 << 20


def mapped(model: str, device: Any, owners: list[tuple[str, str]]) -> None:
    """By names of modules, the longest first; of `owners`, beginnings of names, the first."""

    def owner(name: str) -> str:
        return next(where for start, where in owners if name.startswith(start))

    found = load(model, device)
    check_all(found, model, owner)
    assert sorted(last_stats().devices) == sorted(set(dict(owners).values()))


def misspelled(device: Any) -> None:
    """A key that nothing matches, or a tensor without one, is refused before anything is read."""
    before = Simulator().account()["h2d_nbytes"]
    try:
        load("large", device)
    except ckptfmt.OptionError as error:
        assert error.hint
    else:
        raise AssertionError("not refused")
    assert Simulator().account()["h2d_nbytes"] == before


def auto(model: str, n_devices: int) -> None:
    """All devices have a share; layers are not split, and tied names stay together."""
    found = load(model, "auto")
    where = {name: str(tensor.device) for name, tensor in found.items()}
    check_all(found, model, where.__getitem__)
    layers: dict[str, set[str]] = {}
    for name, device in where.items():
        if name.startswith("layers."):
            layers.setdefault(".".join(name.split(".")[:2]), set()).add(device)
    assert all(len(devices) == 1 for devices in layers.values()), layers
    assert len(set(where.values())) == n_devices
    wanted = expected(model)
    for name, tensor in wanted.items():
        for other in wanted:
            if wanted[other] is tensor:
                assert where[name] == where[other]


def not_split(model: str, patterns: list[str]) -> None:
    """Modules that the caller wants whole are whole."""
    found = ckptfmt.load(path_of(model), device="auto", no_split=patterns, options=options())
    mine = {str(t.device) for name, t in found.items() if name.startswith("layers.")}
    assert len(mine) == 1


def read_once(staging: str) -> None:
    """Two devices share one pass over the files: each byte is read once."""
    load("large", {"": D0, "layers.0": D1}, staging=staging)
    together = last_stats().read_nbytes
    load("large", D0, staging=staging)
    # Where the devices' shares meet, blocks are not read by both: they are cut at tensors.
    assert together <= last_stats().read_nbytes + 64 * 1024


def side_by_side() -> None:
    """Copies to two devices run at the same time: the trace of the links says so."""
    trace = Path(os.environ["ACLSIM_TRACE"])
    skipped = trace.stat().st_size if trace.exists() else 0
    with simulated(h2d=0.2):
        found = load("large", {"": D0, "layers.0": D1}, op_nbytes=MiB)
    check_all(found, "large", lambda n: D1 if n.startswith("layers.0") else D0)
    spans: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    with trace.open() as lines:
        lines.seek(skipped)
        for line in lines:
            one = json.loads(line)
            if one.get("ran") == "h2d" and one["nbytes"] > MiB // 2:
                spans[one["device"]].append((one["start"], one["end"]))
    overlapping = sum(a < d and c < b for a, b in spans[0] for c, d in spans[1])
    assert overlapping > min(len(spans[0]), len(spans[1])) // 2, (overlapping, spans)


def stops_the_others() -> None:
    """Damage in what goes to one device ends the load to the other, on a link of seconds."""
    simulator = Simulator()
    load("tiny", {"": D0, "layers.0": D1})
    with copy_of("large") as path:
        flip(path, "layers.2.more")
        before = held(simulator)
        start = simulator.account()["devices"][1]["h2d_nbytes"]
        total = expected("large")["layers.0.weight"].nbytes
        with simulated(h2d="0,0.01"):
            try:
                ckptfmt.load(
                    path, device={"": D0, "layers.0": D1},
                    options=options(op_nbytes=MiB, depth=1, threads=1),
                )  # fmt: skip
            except ckptfmt.ChecksumError as error:
                assert error.tensor == "layers.2.more"
            else:
                raise AssertionError("the damage was not seen")
        assert simulator.account()["devices"][1]["h2d_nbytes"] - start < total
        assert held(simulator) == before
    check_all(load("tiny"), "tiny")


def no_such_device() -> None:
    """More than there are: told in one line, with how many there are."""
    try:
        load("tiny", there(7))
    except ckptfmt.DeviceError as error:
        assert there(7) in str(error)
        assert "2 devices" in str(error)
    else:
        raise AssertionError("there is no such device")


def current_device_is_kept() -> None:
    """A load to one device leaves the caller on the other, with torch and the runtime agreeing."""
    other = torch.full((1000,), 3.0, device=D1)
    for current, device in ((1, D0), (0, D1), (1, "auto"), (0, "auto")):
        MODULE.set_device(current)
        try:
            check = load("tiny", device)
            assert MODULE.current_device() == current
            here = torch.ones(100, device=KIND) * 2  # on the current one
            assert str(here.device) == there(current)
            assert torch.equal(here.cpu(), torch.full((100,), 2.0))
            moved = torch.ones(100, device=there(1 - current)) + 1
            assert torch.equal(moved.cpu(), torch.full((100,), 2.0))
            stream = MODULE.Stream()
            with MODULE.stream(stream):
                again = here + here
            stream.synchronize()
            assert torch.equal(again.cpu(), torch.full((100,), 4.0))
            check_all(check, "tiny", lambda name, found=check: str(found[name].device))
        finally:
            MODULE.set_device(0)
    assert torch.equal((other + 1).cpu(), torch.full((1000,), 4.0))


def in_threads() -> None:
    """Threads that each sit on a device of their own, loading to both."""
    import threading

    told: list[BaseException] = []

    def work(number: int) -> None:
        try:
            MODULE.set_device(number)
            for _ in range(5):
                check_all(load("tiny", there(1 - number)), "tiny", there(1 - number))
                check_all(load("tiny", there(number)), "tiny", there(number))
                assert torch.equal((torch.ones(9, device=KIND) + 1).cpu(), torch.full((9,), 2.0))
        except BaseException as error:
            told.append(error)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if told:
        raise told[0]


def streamed(max_nbytes: int, staging: str) -> None:
    """``stream()`` with a consumer that keeps nothing: device memory stays within the bound.

    torch does not cache in this child, so that what the runtime has given is what is in use.
    """
    simulator = Simulator()
    load("tiny", staging=staging)
    held(simulator)
    simulator.reset()
    start = simulator.account()["devices"][0]["used_nbytes"]
    names, wanted = [], expected("mixed")
    with ckptfmt.open(path_of("mixed"), options=options(staging=staging)) as checkpoint:
        for name, tensor in checkpoint.stream(device=D0, max_nbytes=max_nbytes):
            check_equal(name, tensor, wanted[name])
            names.append(name)
            del tensor
    assert sorted(names) == sorted(wanted)
    peak = simulator.account()["devices"][0]["peak_nbytes"] - start
    total = sum(tensor.nbytes for tensor in wanted.values())
    assert peak <= max_nbytes + MiB, f"{peak} bytes, the bound is {max_nbytes}"
    assert max_nbytes + MiB < total, "the model fits, and nothing is shown"


def ties_in_a_stream() -> None:
    """Tied names follow each other and share memory."""
    with ckptfmt.open(path_of("mixed"), options=options()) as checkpoint:
        found = dict(checkpoint.stream(device={"layers.1": D1, "": D0}))
    where = {name: str(tensor.device) for name, tensor in found.items()}
    assert set(where.values()) == {D0, D1}
    check_all(found, "mixed", where.__getitem__)


def device_arguments() -> None:
    """Other spellings of a device."""
    for given in (KIND, D0, torch.device(D0), torch.device(KIND, 1)):
        found = ckptfmt.load(path_of("tiny"), device=given, options=options())
        check_all(found, "tiny", D1 if str(given) == D1 else D0)
    assert device_of(KIND) == KIND
