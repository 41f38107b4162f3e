"""The devices of a load: which ones there are, brought up when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ckptfmt import placement
from ckptfmt.cuda import Cuda
from ckptfmt.errors import MissingDependencyError, OptionError
from ckptfmt.npu import Npu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.accelerator import Accelerator
    from ckptfmt.loading import Request

KINDS: dict[str, type[Accelerator]] = {"npu": Npu, "cuda": Cuda}


def bring_up(name: str) -> Accelerator:
    """One device, by its name as ``placement.normalize`` spells it."""
    kind = KINDS.get(name.partition(":")[0])
    if kind is None:
        raise OptionError(f"device is {name!r}, which takes no copies: 'cpu' goes with no other")
    return kind(name)


def all_devices() -> list[Accelerator]:
    """Those that ``"auto"`` means, in order: all NPUs where torch_npu is installed, else all GPUs.

    Raises
    ------
    MissingDependencyError
        There is neither torch_npu nor a torch for CUDA.
    """
    kind = "npu" if find_spec("torch_npu") is not None else "cuda"
    try:
        first = bring_up(f"{kind}:0")
    except MissingDependencyError as error:
        if kind == "npu":
            raise
        raise MissingDependencyError(
            "device 'auto' needs torch_npu and CANN, or a torch for CUDA: neither is installed",
            hint="device='cpu' loads without",
        ) from error
    return [first, *(bring_up(f"{kind}:{number}") for number in range(1, first.count))]


def devices_of(device: str | Mapping[str, str]) -> list[Accelerator]:
    """Those that a load to `device` may use, each brought up, in order of their numbers."""
    if device == "auto":
        return all_devices()
    given = device.values() if isinstance(device, Mapping) else [device]
    wanted = {placement.normalize(one) for one in given} - {"cpu"}
    return [bring_up(name) for name in sorted(wanted, key=placement.rank)]


@dataclass(slots=True)
class Devices:
    """The devices of one load, brought up in the caller's thread.

    Attributes
    ----------
    wanted : str or mapping
        As the caller said.
    no_split : sequence of str
        For ``"auto"``: names of modules that stay on one device.
    found : dict
        By name.
    """

    wanted: str | Mapping[str, str]
    no_split: Sequence[str] = ()
    found: dict[str, Accelerator] = field(default_factory=dict)
    placed: dict[int, str] | None = None

    @classmethod
    def meant(
        cls, device: str | Mapping[str, str], no_split: Sequence[str] = ()
    ) -> Devices | None:
        """The devices that a person's words mean; None for the CPU."""
        if isinstance(device, Mapping):
            return cls(dict(device), no_split)
        name = str(device)
        if name != "auto":
            name = placement.normalize(device)
        return None if name == "cpu" else cls(name, no_split)

    def place(self, request: Request) -> dict[str, list[int]]:
        """Positions by device, which are brought up.

        The first request decides for all; later ones are parts of it.
        """
        if self.placed is None:
            free = None
            if self.wanted == "auto":
                self.found.update((device.name, device) for device in all_devices())
                free = {device.name: device.memory()[0] for device in self.found.values()}
            self.placed = placement.place(
                request.files.index, request.chosen, self.wanted, free=free,
                no_split=self.no_split,
            )  # fmt: skip
        positions: dict[str, list[int]] = {}
        for position in request.unique:
            positions.setdefault(self.placed[position], []).append(position)
        for name in positions:
            self.device(name)
        return positions

    def device(self, name: str) -> Accelerator:
        """One device, brought up at its first use."""
        if name not in self.found:
            self.found[name] = bring_up(name)
        return self.found[name]

    @property
    def start_seconds(self) -> float:
        """For bringing them up."""
        return sum(device.start_seconds for device in self.found.values())
