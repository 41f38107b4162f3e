"""The child of :mod:`ckptfmt.doctor.attempt`: one line of JSON on stdout for each step."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ckptfmt import _core, acl_library, machine, staging
from ckptfmt.accelerator import TOLD
from ckptfmt.devices import bring_up
from ckptfmt.errors import CkptError
from ckptfmt.options import LoadOptions
from ckptfmt.partitions import Partition
from ckptfmt.pool import Pool
from ckptfmt.terminal import stdout_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.accelerator import Accelerator

#: Copied to the device, so many times; the best counts.
LINK_NBYTES, LINK_REPEATS = 64 << 20, 3


def main(name: str, checkpoint: str = "") -> None:
    """Make the steps until one fails."""
    told = os.dup(1)
    with stdout_kept():
        Steps(told).run(name, checkpoint)


class Steps:
    """The steps, each told when it has been made.

    Parameters
    ----------
    told : int
        Descriptor to write to.
    """

    def __init__(self, told: int) -> None:
        self.told = told

    def run(self, name: str, checkpoint: str) -> None:
        """Make them, until one fails."""
        from ckptfmt.cuda import import_torch_cuda  # noqa: PLC0415
        from ckptfmt.npu import import_torch_npu  # noqa: PLC0415

        import_torch = import_torch_npu if name.startswith("npu") else import_torch_cuda
        if self.step("import", lambda: {"torch": str(import_torch(name).__version__)}) is None:
            if name.startswith("npu"):  # never before torch_npu, whose copy is the one to use
                self.step("library", lambda: {"path": acl_library.bind()})
            return
        found: list[Accelerator] = []

        def device() -> dict[str, Any]:
            found.append(bring_up(name))
            return asdict(machine.device_facts(found[0])) | {"count": found[0].count}

        if self.step("device", device) is None:
            return
        chosen = self.step("staging", lambda: _staging(found[0], checkpoint))
        if chosen is not None:
            self.step("link", lambda: _link(found[0], str(chosen["letter"])))

    def step(self, name: str, body: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Make one and tell of it; None if it failed."""
        failed = True
        try:
            told = body()
            failed = False
        except CkptError as error:
            told = {"error": error.message + _cause(error), "hint": error.hint or ""}
        except Exception as error:  # whatever torch and what it loads raise is told
            told = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "hint": ""}
        os.write(self.told, (json.dumps({"step": name, **told}) + "\n").encode())
        return None if failed else told


def _cause(error: BaseException) -> str:
    """What stands behind an error of ours: torch puts a line of its own before it."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    said = " ".join(str(first).split())[:TOLD]
    if first is error or said in str(error):
        return ""
    return f" ({type(first).__name__}: {said})"


def _staging(device: Accelerator, checkpoint: str) -> dict[str, Any]:
    """The way to stage for a file of the checkpoint, or of this package."""
    path = os.path.join(checkpoint, "part-00000.ckptfmt")
    if not checkpoint or not os.path.exists(path):
        path = str(_core.__file__)
    folder, file = os.path.split(path)
    dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        partition = Partition.open(dir_fd, folder, file)
    finally:
        os.close(dir_fd)
    try:
        found = staging.choose(device, [partition], LoadOptions.from_environment())
    finally:
        partition.close()
    return {"letter": found.letter, "text": str(found), "file": path}


def _link(device: Accelerator, letter: str) -> dict[str, Any]:
    """How fast bytes go to the device from where loads have them."""
    if letter not in "ABCD":
        return {"nbytes": 0, "seconds": 0.0}
    there = device.empty(LINK_NBYTES)
    device.wait_for_torch()
    seconds = []
    with Pool(device, letter, LINK_NBYTES) as pool:
        for _ in range(LINK_REPEATS):
            began = time.perf_counter()
            if letter == "D":
                device.runtime.copy(there.data_ptr(), pool.address, LINK_NBYTES, to_device=True)
            else:
                device.runtime.copy_async(there.data_ptr(), pool.address, LINK_NBYTES)
            seconds.append(time.perf_counter() - began)
    return {"nbytes": LINK_NBYTES, "seconds": min(seconds)}
