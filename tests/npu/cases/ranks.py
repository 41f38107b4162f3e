"""Checkpoints of ranks on devices: as they were cut, joined, and cut again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import ckptfmt
from tests.npu.cases.expected import D0, D1, Tensors, check_equal, expected, options, path_of

#: Along the first and the second dimension, all divisible by four.
RULES = {"layers.0.weight": "colwise", "layers.2.weight": "colwise", "layers.3.weight": "rowwise"}
DIMS = {"layers.0.weight": 0, "layers.2.weight": 0, "layers.3.weight": 1}


@contextmanager
def cut_in_two() -> Iterator[Path]:
    """The model of few large tensors, cut."""
    with TemporaryDirectory() as folder:
        target = Path(folder, "cut")
        ckptfmt.convert(
            path_of("large"), target, tensor_parallel=2, tensor_parallel_plan=RULES,
            partition_size="8MiB",
        )  # fmt: skip
        yield target


def of_rank(ranks: int, rank: int) -> Tensors:
    """What a rank has, by torch alone."""
    return {
        name: tensor.chunk(ranks, DIMS[name])[rank] if name in DIMS else tensor
        for name, tensor in expected("large").items()
    }


def check(found: Tensors, wanted: Tensors, where: Any) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in found.items():
        assert str(tensor.device) == where(name), f"{name} is on {tensor.device}"
        check_equal(name, tensor, wanted[name])
    assert found["head.weight"].data_ptr() == found["layers.1.weight"].data_ptr()


def loaded(staging: str) -> None:
    """In one load, on two devices, in a stream, in place."""
    with cut_in_two() as path:
        for ranks, rank in ((2, 1), (4, 3)):
            wanted = of_rank(ranks, rank)
            given: dict[str, Any] = {"rank": rank, "tensor_parallel": ranks}
            with ckptfmt.open(path, options=options(staging=staging), **given) as checkpoint:
                seen: list[tuple[int, int]] = []
                found = checkpoint.load(device=D1, progress=lambda *at, to=seen: to.append(at))
                check(found, wanted, lambda name: D1)
                assert seen[-1][0] == seen[-1][1] > 0
                halves = {"": D0, "layers.0": D1}
                check(checkpoint.load(device=halves), wanted,
                      lambda name: D1 if name.startswith("layers.0") else D0)  # fmt: skip
                streamed = checkpoint.stream(device=D0, max_nbytes=4 << 20)
                check(dict(streamed), wanted, lambda name: D0)
                target = {
                    name: torch.zeros(t.shape, dtype=t.dtype, device=D0)
                    for name, t in wanted.items()
                }
                target["head.weight"] = target["layers.1.weight"]
                checkpoint.load_into(target)
                check(target, wanted, lambda name: D0)


def cast(staging: str) -> None:
    """Cast on the device, of what was put together before."""
    with cut_in_two() as path:
        for given in ({"rank": 1}, {}):
            wanted = of_rank(2, 1) if given else of_rank(1, 0)
            with ckptfmt.open(path, options=options(staging=staging), **given) as checkpoint:
                found = checkpoint.load(["layers.3.weight"], device=D0, dtype="fp32")
            tensor = found["layers.3.weight"].cpu().nan_to_num()
            check_equal("layers.3.weight", tensor, wanted["layers.3.weight"].float().nan_to_num())
