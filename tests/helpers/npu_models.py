"""Models that a child can make again, byte for byte, to compare with what it has loaded."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ckptfmt
from ckptfmt.dtypes import DTYPES

Tensors = dict[str, torch.Tensor]

MiB = 1 << 20
#: Those that torch has, but for its shells, which no device knows.
IN_TORCH = [
    name
    for name, row in DTYPES.items()
    if row.torch_name
    and hasattr(torch, row.torch_name)
    and not name.startswith(("INT", "UINT", "BITS"))
]
#: What casts are made of; random bits would hold NaNs, whose bits no two processors keep alike.
FLOATS = ["F16", "BF16", "F32", "F64"]


def random_bytes(nbytes: int, seed: int) -> Any:
    """The same bytes for the same seed, quickly."""
    random = np.random.Generator(np.random.SFC64(seed))
    words = random.integers(0, 1 << 64, nbytes // 8 + 1, np.uint64)
    return words.view(np.uint8)[:nbytes]


def tensor(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random bits of a dtype and a shape as torch counts it; bools are kept to 0 and 1."""
    row = DTYPES[dtype]
    torch_dtype = getattr(torch, row.torch_name or "")
    nbytes = prod(shape) * max(1, row.bits * row.pack // 8)
    if nbytes == 0:
        return torch.empty(shape, dtype=torch_dtype)
    data = random_bytes(nbytes, seed)
    if dtype == "BOOL":
        data = data & 1
    return torch.from_numpy(data).view(torch_dtype).view(shape)


def mixed() -> Tensors:
    """2,000 small tensors of every dtype, some of them empty, without dimensions, or tied."""
    shape_of = np.random.default_rng(1)
    found: Tensors = {}
    for i in range(2000):
        dtype = IN_TORCH[i % len(IN_TORCH)]
        name = f"layers.{i // 100}.t{i}"
        shape: tuple[int, ...] = (int(shape_of.integers(1, 40)), int(shape_of.integers(1, 130)))
        if i % 97 == 0:
            shape = (3, 0, 5)
        elif i % 89 == 0 and DTYPES[dtype].pack == 1:
            shape = ()
        found[name] = tensor(dtype, shape, i)
        if i % 200 == 177:
            found[f"tied.{i}"] = found[name]
    return found


def large() -> Tensors:
    """Few tensors, two of which span partitions of 8 MiB; around the size of an allocation."""
    found = {
        "layers.0.weight": tensor("BF16", (2048, 4101), 10),
        "layers.1.weight": tensor("F32", (1031, 1033), 11),
        "layers.1.bias": tensor("F16", (7,), 12),
        "layers.2.weight": tensor("U8", (MiB,), 13),
        "layers.2.less": tensor("I8", (MiB - 1,), 14),
        "layers.2.more": tensor("U8", (MiB + 1,), 15),
        "layers.3.weight": tensor("BF16", (3000, 1500), 16),
    }
    return {**found, "head.weight": found["layers.1.weight"]}


def wide() -> Tensors:
    """Tensors at multiples of 64 KiB: neighbours in the files that are none on the device."""
    found: Tensors = {}
    for i in range(160):
        dtype = IN_TORCH[i % len(IN_TORCH)]
        size = DTYPES[dtype].bits * DTYPES[dtype].pack // 8
        found[f"layers.{i // 40}.t{i}"] = tensor(dtype, ((400 * i + 9) // size + 1,), 3000 + i)
    found["layers.4.weight"] = tensor("F32", (700, 613), 3200)
    return found


def tiny() -> Tensors:
    """A few reads of 1 MiB, numbers to add up: small enough to be loaded a thousand times."""
    random = np.random.default_rng(4)
    found: Tensors = {}
    for i in range(4):
        numbers = random.standard_normal((211 + i, 1021))
        found[f"layers.{i}.weight"] = torch.from_numpy(numbers).float()
        found[f"layers.{i}.bias"] = torch.from_numpy(random.standard_normal(97 + i)).half()
    return {**found, "head.bias": found["layers.0.bias"]}


def floats() -> Tensors:
    """Numbers of every size, for casts: large, small, denormal, halves to be rounded, no NaN."""
    random = np.random.default_rng(5)
    found: Tensors = {"ids": torch.arange(77), "quantized": tensor("F8_E4M3", (64, 9), 5001)}
    for dtype in FLOATS:
        torch_dtype = getattr(torch, DTYPES[dtype].torch_name or "")
        for name, n in {"a": 1, "b": 30_001}.items():
            exponents = random.uniform(-45, 45, n)
            values = random.choice([-1.0, 1.0], n) * random.uniform(1, 10, n) * 10.0**exponents
            found[f"{dtype}.{name}"] = torch.from_numpy(values).to(torch_dtype)
        numbers = 1 + torch.arange(4096, dtype=torch.float64) / 4096
        found[f"{dtype}.even"] = numbers.to(torch_dtype)
    return {**found, "tied": found["BF16.b"]}


#: How each is made and converted.
MODELS: dict[str, tuple[Callable[[], Tensors], dict[str, int]]] = {
    "mixed": (mixed, {}),
    "large": (large, {"partition_size": 8 * MiB}),
    "wide": (wide, {"alignment": 65536, "partition_size": 4 * MiB}),
    "tiny": (tiny, {"partition_size": 2 * MiB}),
    "floats": (floats, {}),
}


def make_checkpoints(folder: Path) -> None:
    """Convert every model to ``folder/NAME``."""
    for name, (make, options) in MODELS.items():
        ckptfmt.convert(make(), folder / name, **options)
