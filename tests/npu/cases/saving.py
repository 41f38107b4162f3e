"""``save_model`` and ``save_dict`` of tensors on devices."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch

import ckptfmt
from ckptfmt.sources import live
from ckptfmt.sources.torch_tensors import TorchTensors
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import D0, D1, MODULE, check_all, check_equal, expected, load
from tests.npu.cases.ordering import Gate

MiB = 1 << 20


def comes_back(model: str) -> None:
    """A dict, some of it on another device: each byte is copied once, in pieces."""
    found = load(model, {"": D0, "layers.1": D1})
    pieces: list[int] = []
    read_into = TorchTensors.read_into

    def counted(self: TorchTensors, tensor: int, start: int, buffer: memoryview) -> None:
        pieces.append(len(buffer))
        read_into(self, tensor, start, buffer)

    before = Simulator().account()["d2h_nbytes"]
    with TemporaryDirectory() as folder:
        with mock.patch.object(TorchTensors, "read_into", counted):
            report = ckptfmt.save_dict(found, Path(folder) / "a.ckpt", workers=2)
        moved = Simulator().account()["d2h_nbytes"] - before
        check_all(ckptfmt.load(Path(folder) / "a.ckpt"), model, "cpu")
    assert max(pieces) <= 8 * MiB
    assert sum(pieces) == report.nbytes
    assert moved == report.nbytes, (moved, report.nbytes)


def module_comes_back() -> None:
    """Parameters, buffers, tied weights, and a slice that is stored by itself."""
    tensors = load("tiny", D0)
    net = torch.nn.Module()
    large = torch.arange(3000, dtype=torch.int64).to(D0)
    net.register_buffer("whole", large)
    net.register_buffer("slice", large[7:1999])
    for i, (_, tensor) in enumerate(sorted(tensors.items())):
        net.register_buffer(f"b{i}", tensor)
    net.register_buffer("tied", large)
    with TemporaryDirectory() as folder:
        ckptfmt.save_model(net, Path(folder) / "a.ckpt")
        found = ckptfmt.load(Path(folder) / "a.ckpt")
    wanted = [tensor for _, tensor in sorted(expected("tiny").items())]
    check_equal("slice", found["slice"], torch.arange(7, 1999))
    assert found["tied"].data_ptr() == found["whole"].data_ptr()
    for i, tensor in enumerate(wanted):
        check_equal(f"b{i}", found[f"b{i}"], tensor)


def waits_for_torch(waiting: bool = True) -> None:
    """What a stream of the caller's has yet to compute is in it; not, if nothing waits for it."""
    old = torch.full((MiB,), 1, dtype=torch.uint8)
    new = torch.full((MiB,), 2, dtype=torch.uint8).to(D0)
    found = old.to(D0)
    MODULE.synchronize()
    stream = MODULE.Stream()
    with TemporaryDirectory() as folder:
        with MODULE.stream(stream):
            gate = Gate()
            found.copy_(new, non_blocking=True)
        later = threading.Timer(0.1, gate.is_open.set)
        try:
            if waiting:
                later.start()
                ckptfmt.save_dict({"a": found}, Path(folder) / "a.ckpt")
            else:
                with mock.patch.object(live, "_wait_for_devices"):
                    ckptfmt.save_dict({"a": found}, Path(folder) / "a.ckpt")
        finally:
            gate.is_open.set()
            later.cancel()
            MODULE.synchronize()
        stored = ckptfmt.load(Path(folder) / "a.ckpt")["a"]
    check_equal("a", stored, torch.full_like(old, 2 if waiting else 1))
