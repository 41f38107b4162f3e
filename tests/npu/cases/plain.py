"""Plain safetensors on devices, from files that are aligned to nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import ckptfmt
from ckptfmt.dtypes import from_torch
from tests.helpers.handmade import write_plain
from tests.npu.cases.expected import D0, D1, Tensors, check_equal, expected, last_stats, options


def stored(model: str, folder: Path, starts: tuple[int, int]) -> Tensors:
    """Write a model as two shards; ties are lost, and dtypes that safetensors lacks."""
    tensors = {n: t for n, t in expected(model).items() if from_torch(t.dtype).in_safetensors}
    names = list(tensors)
    half = len(names) // 2
    for number, (mine, start) in enumerate(zip((names[:half], names[half:]), starts, strict=True)):
        path = folder / f"model-{number + 1:05d}-of-00002.safetensors"
        write_plain(path, {n: tensors[n] for n in mine}, start)
    return tensors


def check(found: Tensors, wanted: Tensors, devices: dict[str, str]) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in found.items():
        check_equal(name, tensor, wanted[name])
        device = devices.get(".".join(name.split(".")[:2]), devices[""])
        assert str(tensor.device) == device, name


def equal(model: str, staging: str, starts: tuple[int, int] = (8, 2051), **given: Any) -> None:
    """A load to two devices, a stream, rows, and targets that are there already."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        wanted = stored(model, folder, starts)
        with ckptfmt.open(folder, options=options(staging=staging, **given)) as checkpoint:
            for where in ({"": D1}, {"": D0, "layers.0": D1}):
                found = checkpoint.load(device=where)
                check(found, wanted, where)
                stats = last_stats()
                assert stats.staging.startswith(f"{staging}: "), stats.staging
                assert stats.unverified
                assert stats.verified_nbytes == 0
            check(dict(checkpoint.stream(device=D0, max_nbytes=4 << 20)), wanted, {"": D0})
            rows = {n: (1, t.shape[0]) for n, t in wanted.items() if t.dim() > 1 and t.shape[0]}
            cut = {n: t[1:] if n in rows else t for n, t in wanted.items()}
            check(checkpoint.load(device=D1, rows=rows), cut, {"": D1})
            targets = {}
            for name, tensor in wanted.items():  # torch_npu makes no complex ones by itself
                raw = torch.empty(tensor.nbytes, dtype=torch.uint8, device=D0)
                targets[name] = raw.view(tensor.dtype).view(tensor.shape)
            checkpoint.load_into(targets)
            check(targets, wanted, {"": D0})
