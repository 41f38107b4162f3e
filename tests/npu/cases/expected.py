"""What a load has to give: tensors on their devices, equal bit for bit through ``t.cpu()``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ckptfmt
from ckptfmt import staging
from ckptfmt.stats import LoadStats
from tests.helpers.npu_models import MODELS, Tensors
from tests.helpers.simulator import Simulator

#: What these cases run on: NPUs, or the GPUs of tests/cuda.
KIND = os.environ.get("CASES_KIND", "npu")
D0, D1 = f"{KIND}:0", f"{KIND}:1"
MODULE: Any = getattr(torch, KIND, None)


def there(number: int) -> str:
    """The name of a device."""
    return f"{KIND}:{number}"


class WrongBytesError(AssertionError):
    """A tensor came out other than it was stored."""


def path_of(model: str) -> Path:
    """The checkpoint of a model."""
    return Path(os.environ["NPU_CASES_FOLDER"]) / model


@cache
def expected(model: str) -> Tensors:
    """The tensors of a model, on the CPU."""
    return MODELS[model][0]()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes in order, where it is."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def check_equal(name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Same dtype, shape and bytes."""
    assert found.dtype == wanted.dtype, f"{name}: {found.dtype}, expected {wanted.dtype}"
    assert found.shape == wanted.shape, f"{name}: {found.shape}, expected {wanted.shape}"
    a, b = as_bytes(found.cpu()), as_bytes(wanted)
    if not torch.equal(a, b):
        wrong = (a != b).nonzero().flatten()
        first = int(wrong[0])
        raise WrongBytesError(
            f"{name}: {len(wrong)} of {len(a)} bytes, the first at {first}: "
            f"{int(a[first]):02x}, expected {int(b[first]):02x}"
        )


def check_all(
    found: Mapping[str, torch.Tensor],
    model: str,
    device: str | Callable[[str], str] = D0,
    names: list[str] | None = None,
) -> None:
    """All tensors of a model, on the right devices, tied names in one memory."""
    wanted = expected(model)
    assert sorted(found) == sorted(wanted if names is None else names)
    memory: dict[int, tuple[str, int]] = {}
    for name, tensor in found.items():
        where = device if isinstance(device, str) else device(name)
        assert str(tensor.device) == where, f"{name} is on {tensor.device}, expected {where}"
        check_equal(name, tensor, wanted[name])
        if tensor.numel():
            mine = (name, tensor.data_ptr())
            other, address = memory.setdefault(wanted[name].data_ptr(), mine)
            assert address == tensor.data_ptr(), f"{name} and {other} are no longer tied"


def options(**given: Any) -> ckptfmt.LoadOptions:
    """How to read, with a pool that is small, so that slots are used again."""
    if "staging" in given:
        given[f"{KIND}_staging"] = given.pop("staging")
    return ckptfmt.LoadOptions(**{"pool_nbytes": 16 << 20, **given})


def device_of(given: Any) -> Any:
    """A name, or a map that came as a list of pairs."""
    return given if isinstance(given, (str, dict)) else dict(given)


def load(model: str, device: Any = D0, **given: Any) -> dict[str, torch.Tensor]:
    """Load a model; what no argument of `ckptfmt.load` is goes to the options."""
    device = device_of(device)
    mine = {name: given.pop(name) for name in ("names", "dtype", "verify") if name in given}
    return ckptfmt.load(path_of(model), device=device, options=options(**given), **mine)


def last_stats() -> LoadStats:
    """Of the load before."""
    found = ckptfmt.load_stats()
    assert found is not None
    return found


@contextmanager
def simulated(**given: str | float) -> Iterator[Simulator]:
    """Settings of the simulator for a while; their defaults are 0."""
    simulator = Simulator()
    try:
        for name, value in given.items():
            simulator.set(name, value)
        yield simulator
    finally:
        for name in given:
            simulator.set(name, 0)


def forget_probes() -> None:
    """Have the next load try the strategies anew."""
    staging._chosen.clear()
