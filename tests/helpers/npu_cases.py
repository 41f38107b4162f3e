"""Cases for a child with devices of the simulated runtime: many in each, told one by one.

The devices are NPUs of torch_npu, or GPUs of the fake CUDA. Importing torch_npu takes seconds, and
how the runtime is cannot be changed afterwards. So tests say where a case is to run (`Place`), and
the cases of a place share a child, which writes down what became of each. If it dies or hangs, the
case that it was at is to blame; the next ones get another child.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import cuda_fake
from tests.helpers.simulator import ROOT, Simulator, environment
from tests.helpers.torch_npu import PYTHON

#: Of one case, before the child gives it up and says where it stands.
TIMEOUT_S = 90
#: Flags of the package's events (``EVENT_FLAGS``); torch keeps a number of others.
OUR_EVENTS = 3
#: What is there unless a place says otherwise.
DEVICES: tuple[tuple[str, str | float], ...] = (("devices", 2), ("memory", "1G"))


@dataclass(frozen=True, slots=True)
class Place:
    """How a child is: the runtime's settings and torch's.

    Attributes
    ----------
    version : str
        Of CANN.
    queue : int
        ``TASK_QUEUE_ENABLE``.
    settings : tuple of (str, value)
        Of the simulator.
    variables : tuple of (str, str)
        Further ones of the environment.
    kind : str
        Of its devices: ``npu`` or ``cuda``.
    """

    version: str = "8.5.0"
    queue: int = 1
    settings: tuple[tuple[str, str | float], ...] = DEVICES
    variables: tuple[tuple[str, str], ...] = ()
    kind: str = "npu"

    def __str__(self) -> str:
        others = [f"{name}={value}" for name, value in (*self.settings, *self.variables)]
        if self.kind == "cuda":
            return " ".join(["cuda", *others])
        return " ".join([self.version, f"queue={self.queue}", *others])

    @property
    def python(self) -> str:
        """What runs it."""
        return PYTHON if self.kind == "npu" else sys.executable

    def environment(self) -> dict[str, str]:
        """Of the child."""
        if self.kind == "cuda":
            given = cuda_fake.environment(**dict(self.settings))
            given |= {"CASES_KIND": "cuda", "SIMULATOR_LIBRARY": cuda_fake.NAME}
        else:
            given = environment(self.version, **dict(self.settings))
        paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
        return {
            **given, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TASK_QUEUE_ENABLE": str(self.queue), **dict(self.variables),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to be tried.

    Attributes
    ----------
    function : str
        ``"loading.equal"`` is ``tests/npu/cases/loading.py``'s `equal`.
    arguments : tuple of (str, value)
        Its keywords, of kinds that JSON has.
    """

    function: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.function, *(f"{name}={value}" for name, value in self.arguments)])


def case(function: str, /, **arguments: Any) -> Case:
    """A case with its keywords."""
    return Case(function, tuple(arguments.items()))


# ---- the parent's end ----


def run_cases(place: Place, cases: Sequence[Case], folder: Path) -> dict[Case, str]:
    """Run cases in children, one after the other.

    Parameters
    ----------
    folder : Path
        Where the checkpoints are.

    Returns
    -------
    dict of Case to str
        What went wrong with each; empty for nothing.
    """
    found: dict[Case, str] = {}
    left = list(cases)
    while left:
        outcomes, end = _run_child(place, left, folder)
        found |= dict(zip(left, outcomes, strict=False))
        left = left[len(outcomes) :]
        if left and end:
            found[left.pop(0)] = end  # the one that it was at
        elif end:
            last = cases[-1]
            found[last] = f"{found[last]}\nafter all cases: {end}".strip()
    return found


def _run_child(place: Place, cases: Sequence[Case], folder: Path) -> tuple[list[str], str]:
    """What became of the first of the cases, and how the child ended if that was not well."""
    request = {"folder": str(folder), "cases": [[c.function, dict(c.arguments)] for c in cases]}
    reader, writer = os.pipe()
    told = bytearray()

    def read() -> None:
        while data := os.read(reader, 1 << 16):
            told.extend(data)

    listener = threading.Thread(target=read)
    listener.start()
    try:
        child = subprocess.run(
            [place.python, "-m", "tests.helpers.npu_cases", str(writer)], cwd=ROOT,
            env=place.environment(), input=json.dumps(request), capture_output=True, text=True,
            pass_fds=[writer], timeout=(TIMEOUT_S + 5) * len(cases) + 60, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
        listener.join()
        os.close(reader)
    outcomes = [json.loads(line) for line in told.decode().splitlines()]
    if child.returncode == 0 and len(outcomes) == len(cases):
        return outcomes, ""
    return outcomes, f"the child ended with {child.returncode}\n{child.stderr[-6000:]}"


# ---- the child's end ----


def _module() -> Any:
    """``torch.npu`` or ``torch.cuda``."""
    import torch

    return getattr(torch, os.environ.get("CASES_KIND", "npu"))


def held(simulator: Simulator) -> dict[str, int]:
    """What this process and the runtime hold, once torch has given back what it can."""
    from ckptfmt import pool

    module = _module()
    gc.collect()
    pool.release_kept()
    for device in range(module.device_count()):
        module.synchronize(device)
    module.empty_cache()
    account = simulator.account()
    live = account["live"]
    live["events"] = [event for event in live["events"] if event["flags"] == OUR_EVENTS]
    return {
        **{name: len(found) for name, found in live.items()},
        **{name: account[name] for name in ("violation_count", "corrupted_copies")},
        "pending": sum(stream["pending"] for stream in live["streams"]),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


@contextmanager
def all_told() -> Iterator[list[str]]:
    """Collect what was raised where nobody could catch it: in threads, in destructors."""
    found: list[str] = []
    in_thread, in_destructor = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda given: found.append(f"in {given.thread}: {given.exc_value!r}")
    sys.unraisablehook = lambda given: found.append(f"in {given.object}: {given.exc_value!r}")
    try:
        yield found
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, in_destructor


def attempt(module: str, name: str, arguments: Mapping[str, Any]) -> str:
    """Run one case: what was raised, what is left behind.

    A function may return what it has to leave behind, by the names of `held`.
    """
    from ckptfmt.errors import CleanupWarning

    simulator = Simulator()
    before = held(simulator)
    left: dict[str, int] = {}
    problems = []
    with all_told() as elsewhere, warnings.catch_warnings():
        warnings.simplefilter("error", CleanupWarning)
        try:
            function = getattr(importlib.import_module(f"tests.npu.cases.{module}"), name)
            left = function(**arguments) or {}
        except Exception:
            problems.append(traceback.format_exc())
        simulator.fail("")
        after = held(simulator)
    problems += elsewhere
    for kind, n in after.items():
        if n != before[kind] + left.get(kind, 0):
            problems.append(f"{kind}: {before[kind]} before, {n} after")
    if len(problems) > 0 and after["violation_count"] != before["violation_count"]:
        problems += simulator.account()["violations"][-5:]
    return "\n".join(problems)


@dataclass(slots=True)
class Teller:
    """Writes down what became of each case, at once: the next one may be the end."""

    fd: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, outcome: str) -> None:
        with self.lock:
            os.write(self.fd, json.dumps(outcome).encode() + b"\n")


def warm_up() -> None:
    """Have torch make what it keeps for good: streams, pools of events, pinned memory."""
    import torch

    for device in range(torch.npu.device_count()):
        with torch.npu.device(device):
            stream = torch.npu.Stream()
            pinned = torch.ones(1024).pin_memory()
            with torch.npu.stream(stream):
                there = pinned.to(f"npu:{device}", non_blocking=True)
                there.record_stream(torch.npu.default_stream(device))
            torch.npu.current_stream().wait_stream(stream)
            there.add_(1).cpu()
            del there, pinned
    torch.npu.set_device(0)


def main() -> None:
    """Run the cases that stdin has, as JSON; tell of each on the pipe that is given."""
    faulthandler.enable()
    teller = Teller(int(sys.argv[1]))
    os.set_inheritable(teller.fd, False)
    request = json.load(sys.stdin)
    os.environ["NPU_CASES_FOLDER"] = request["folder"]
    if os.environ.get("CASES_KIND") == "cuda":
        cuda_fake.pretend()
    else:
        warm_up()
    gc.collect()
    gc.freeze()  # what torch is made of is not looked through in every case
    for name, arguments in request["cases"]:
        module, _, function = name.partition(".")
        faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
        outcome = attempt(module, function, arguments)
        faulthandler.cancel_dump_traceback_later()
        teller.tell(outcome)


if __name__ == "__main__":
    main()
