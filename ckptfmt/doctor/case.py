"""What checks are given: the machine, the device that is wanted, what was tried out once."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptfmt import cann_files
from ckptfmt.doctor import ascend, smi
from ckptfmt.errors import NotFoundError, OptionError

if TYPE_CHECKING:
    from ckptfmt.doctor.attempt import Attempt
    from ckptfmt.doctor.system import System

#: Files of weights, in a folder that cannot be opened as a checkpoint.
WEIGHTS = (".ckptfmt", ".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Case:
    """One machine and what is wanted of it.

    Attributes
    ----------
    system : System
        The machine.
    device, device_reason : str
        ``"npu:0"``, and why that.
    checkpoint : str or None
        What is to be loaded.
    """

    system: System
    device: str
    device_reason: str
    checkpoint: str | None = None

    @property
    def kind(self) -> str:
        """``cpu``, ``npu`` or ``cuda``."""
        return self.device.partition(":")[0]

    @property
    def number(self) -> int:
        """The device's."""
        return int(self.device.partition(":")[2] or 0)

    @cached_property
    def canns(self) -> list[ascend.Cann]:
        """All installations of CANN."""
        return ascend.installations(self.system)

    @cached_property
    def cann(self) -> ascend.Cann | None:
        """The one whose libraries a load would use."""
        return ascend.of_path(self.system, self.library) if self.library else None

    @cached_property
    def library(self) -> str:
        """The libascendcl.so that was loaded, else that would be; empty if there is none."""
        return (self.tried.library if self.tried else "") or ascend.library(self.system)

    @property
    def cann_version(self) -> str:
        """Its version, by its files or, where there are none, by its own words; may be empty."""
        if self.cann is not None:
            return self.cann.version
        return str(self.tried.steps.get("device", {}).get("cann", "")) if self.tried else ""

    @cached_property
    def chips(self) -> list[smi.Chip]:
        """What npu-smi lists."""
        return smi.parse(self.system.output("npu-smi info") or "")

    @property
    def is_board(self) -> bool:
        """Whether the chip shares the host's memory, by its name."""
        if self.tried is not None and self.tried.run_mode:
            return self.tried.run_mode == "RC"
        return any(chip.name.startswith("310B") for chip in self.chips)

    @cached_property
    def tried(self) -> Attempt | None:
        """What became of bringing up the device; None where nothing is tried."""
        if not self.system.is_live or self.kind == "cpu":
            return None
        from ckptfmt.doctor.attempt import bring_up  # noqa: PLC0415

        return bring_up(self.device, self.checkpoint)

    @cached_property
    def checkpoint_nbytes(self) -> int:
        """Bytes of the tensors that are to be loaded.

        Raises
        ------
        NotFoundError
            There is no such checkpoint.
        OptionError
            There are no weights.
        """
        assert self.checkpoint is not None
        return weight_nbytes(self.checkpoint)


def weight_nbytes(path: str) -> int:
    """Bytes of tensors in a checkpoint, of weight files in another folder, of a file."""
    if not os.path.exists(path):
        raise NotFoundError(errno.ENOENT, "cannot be looked at", path)
    if os.path.isfile(path):
        return os.path.getsize(path)
    if os.path.exists(os.path.join(path, "ckptfmt.json")):
        try:
            from ckptfmt.checkpoint_files import CheckpointFiles  # noqa: PLC0415
        except ImportError:  # no compiled modules, which is found elsewhere: the files will do
            pass
        else:
            files = CheckpointFiles(path)
            files.close()
            return files.index.nbytes
    for suffix in WEIGHTS:
        sizes = [entry.stat().st_size for entry in os.scandir(path) if entry.name.endswith(suffix)]
        if sizes:
            return sum(sizes)
    raise OptionError(f"{path}: no weights in it", hint="name a checkpoint or a source of one")


def choose_device(system: System, asked: str | None) -> tuple[str, str]:
    """The device to look at, and why: the one asked for, else what this machine seems to be for.

    Raises
    ------
    OptionError
        There is no such kind of device.
    """
    if asked is not None:
        kind, _, number = asked.partition(":")
        if kind not in ("cpu", "npu", "cuda") or not (number or "0").isdecimal():
            raise OptionError(f"device is {asked!r}, expected cpu, npu, npu:N, cuda or cuda:N")
        return ("cpu" if kind == "cpu" else f"{kind}:{int(number or 0)}"), "asked for"
    torch_npu = system.version("torch_npu")
    for found, what in (
        (torch_npu, f"torch_npu {torch_npu} is installed"),
        (system.exists("/dev/davinci_manager"), "/dev/davinci_manager is there"),
        (system.exists(cann_files.DRIVER_INSTALLED), f"{cann_files.DRIVER_INSTALLED} is there"),
        (ascend.installations(system), "CANN is installed"),
    ):
        if found:
            return "npu:0", what
    if system.find("/dev/nvidia[0-9]*") or system.exists("/proc/driver/nvidia/version"):
        return "cuda:0", "NVIDIA's driver is there"
    return "cpu", "nothing of an NPU or a GPU is there"
