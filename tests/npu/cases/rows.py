"""Some rows of tensors on devices: what ``tensor[start:stop]`` would be."""

from __future__ import annotations

from typing import Any

import ckptfmt
from ckptfmt.dtypes import from_torch
from tests.npu.cases.expected import (
    D0,
    D1,
    Tensors,
    check_equal,
    expected,
    last_stats,
    options,
    path_of,
)

Rows = dict[str, tuple[int, int]]


def some_rows(model: str) -> Rows:
    """About a third of each tensor that can be cut; its first byte is at no multiple of 64."""
    found: Rows = {}
    for name, tensor in expected(model).items():
        if tensor.dim() > 1 or (tensor.dim() == 1 and from_torch(tensor.dtype).pack == 1):
            count = tensor.shape[0]
            found[name] = (count // 3, -(-2 * count // 3))
    return found


def check(found: Tensors, model: str, rows: Rows, where: dict[str, str]) -> None:
    wanted = expected(model)
    assert sorted(found) == sorted(wanted)
    for name, tensor in found.items():
        start, stop = rows.get(name, (0, 0))
        check_equal(name, tensor, wanted[name][start:stop] if name in rows else wanted[name])
        device = where.get(".".join(name.split(".")[:2]), where[""])
        assert str(tensor.device) == device, name


def equal(model: str, staging: str, verify: bool = True, **given: Any) -> None:
    """In one load and in a stream, on two devices and one; fewer bytes are read."""
    rows = some_rows(model)
    with ckptfmt.open(path_of(model), options=options(staging=staging, **given)) as checkpoint:
        for where in ({"": D1}, {"": D0, "layers.0": D1}):
            if model == "mixed" and len(where) > 1:
                continue  # its tied names go together
            found = checkpoint.load(device=where, rows=rows, verify=verify)
            check(found, model, rows, where)
            stats = last_stats()
            expects = "D" if staging == "E" and verify else staging
            assert stats.staging.startswith(f"{expects}: "), stats.staging
            assert stats.verified_nbytes >= (stats.nbytes if verify else 0)
        streamed = checkpoint.stream(device=D0, rows=rows, verify=verify, max_nbytes=4 << 20)
        check(dict(streamed), model, rows, {"": D0})
        checkpoint.load(device=D1, verify=verify)
        whole = last_stats().read_nbytes
        checkpoint.load(device=D1, rows=rows, verify=verify)
        assert model != "large" or last_stats().read_nbytes < 0.6 * whole


def cast(staging: str) -> None:
    """Cast on the device."""
    rows = some_rows("large")
    with ckptfmt.open(path_of("large"), options=options(staging=staging)) as checkpoint:
        found = checkpoint.load(device=D0, rows=rows, dtype="fp32", names="layers.?.weight")
    for name, tensor in found.items():
        start, stop = rows[name]
        wanted = expected("large")[name][start:stop]
        wanted = wanted.float() if wanted.dtype.is_floating_point else wanted
        check_equal(name, tensor.cpu().nan_to_num(), wanted.nan_to_num())
