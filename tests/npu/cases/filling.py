"""``load_into`` tensors that are on devices, and casts there."""

from __future__ import annotations

import torch

import ckptfmt
from tests.helpers.npu_cases import held
from tests.helpers.npu_models import FLOATS
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    check_equal,
    expected,
    load,
    options,
    path_of,
    there,
)  # fmt: skip

Tensors = dict[str, torch.Tensor]


def fill(model: str, target: Tensors, staging: str = "auto", **given: bool) -> None:
    with ckptfmt.open(path_of(model), options=options(staging=staging)) as checkpoint:
        checkpoint.load_into(target, **given)


def into_dense(model: str, staging: str) -> None:
    """Contiguous tensors are filled where they are; their neighbours stay."""
    wanted = expected(model)
    target, guards = {}, {}
    for number, (name, tensor) in enumerate(wanted.items()):
        device = there(number % 2)
        room = torch.full((tensor.nbytes + 1024,), 0xA5, dtype=torch.uint8, device=device)
        inside = room[512 : 512 + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        target[name], guards[name] = inside, (room[:512], room[512 + tensor.nbytes :])
    addresses = {name: tensor.data_ptr() for name, tensor in target.items()}
    n_copies = Simulator().account()["d2h_nbytes"]
    fill(model, target, staging)
    # Compared by what the probe reads back: nothing goes through the host twice.
    assert Simulator().account()["d2h_nbytes"] - n_copies <= 2 * 4096
    for name, tensor in target.items():
        assert tensor.data_ptr() == addresses[name]
        check_equal(name, tensor, wanted[name])
        for guard in guards[name]:
            assert bool((guard.cpu() == 0xA5).all()), f"written beside {name}"


def into_awkward(staging: str) -> None:
    """Views that are strided, or start anywhere; CPU tensors and NPU tensors in one call."""
    wanted = expected("tiny")
    whole: Tensors = {}
    target: Tensors = {}
    for number, (name, tensor) in enumerate(wanted.items()):
        if number % 3 == 0:  # transposed, or every other element
            if tensor.dim() == 2:
                whole[name] = torch.zeros(tensor.shape[::-1], dtype=tensor.dtype, device=D0)
                target[name] = whole[name].t()
            else:
                whole[name] = torch.zeros(2 * len(tensor), dtype=tensor.dtype, device=D1)
                target[name] = whole[name][::2]
        elif number % 3 == 1:  # contiguous, but at an address that no copy may go to
            whole[name] = torch.zeros(tensor.numel() + 9, dtype=tensor.dtype, device=D0)
            target[name] = whole[name][3 : 3 + tensor.numel()].view(tensor.shape)
            assert target[name].data_ptr() % 64
        else:
            target[name] = torch.zeros_like(tensor)
    fill("tiny", target, staging)
    for name, tensor in target.items():
        check_equal(name, tensor.contiguous(), wanted[name])
    for name, tensor in whole.items():
        if len(tensor) == 2 * len(wanted[name]):
            assert not bool(tensor[1::2].cpu().any()), f"written between {name}"
        elif tensor.dim() == 1:
            rest = tensor.numel() - wanted[name].numel() - 3
            assert not bool(tensor[:3].cpu().any() or tensor[-rest:].cpu().any())


def refused() -> None:
    """Another shape or dtype, a missing name: all are listed, and nothing is changed."""
    wanted = expected("tiny")
    target = {name: torch.zeros_like(t, device=D0) for name, t in wanted.items()}
    target["layers.0.weight"] = target["layers.0.weight"].half()
    target["layers.1.weight"] = target["layers.1.weight"][:-1]
    target["surplus"] = torch.zeros(3, device=D0)
    del target["layers.2.weight"]
    try:
        fill("tiny", target)
    except ckptfmt.LoadMismatchError as error:
        text = str(error)
        assert "layers.0.weight" in text
        assert "layers.1.weight" in text
        assert "layers.2.weight" in text
        assert "surplus" in text
    else:
        raise AssertionError("not refused")
    assert not any(bool(tensor.cpu().any()) for tensor in target.values())


def into_module() -> None:
    """A module on a device, two of its parameters tied."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(500, 300)
            self.head = torch.nn.Linear(300, 500, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("steps", torch.arange(7))

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source = Model()
        torch.nn.init.normal_(source.embed.weight)
        ckptfmt.convert(source, f"{folder}/ckpt")
        target = Model().to(D1)
        with ckptfmt.open(f"{folder}/ckpt") as checkpoint:
            checkpoint.load_into(target)
        assert target.head.weight is target.embed.weight
        for name, tensor in target.state_dict().items():
            check_equal(name, tensor, source.state_dict()[name].detach())
        # A model that has no memory yet takes the tensors as they are.
        with torch.device("meta"):
            empty = Model()
        empty.load_state_dict(ckptfmt.load(f"{folder}/ckpt", device=D0), assign=True)
        check_equal("embed", empty.embed.weight, source.embed.weight.detach())


def cast(dtype: str, device: str) -> None:
    """As torch casts on a CPU, bit for bit; integers and quantized tensors are kept."""
    to = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype])
    found = load("floats", device, dtype=dtype)
    for name, tensor in expected("floats").items():
        is_float = name.split(".")[0] in FLOATS or name == "tied"
        check_equal(name, found[name], tensor.to(to) if is_float else tensor)
    assert found["tied"].data_ptr() == found["BF16.b"].data_ptr()
    assert found["ids"].cpu().dtype == torch.int64


def own_format(staging: str) -> None:
    """A tensor in a format of the device's own is filled by way of torch, or refused.

    The simulated runtime has no such formats, torch_npu only keeps the name: what tells is the way
    that was taken.
    """
    import torch_npu

    from ckptfmt import npu

    wanted = expected("tiny")
    target = {name: torch.zeros_like(tensor, device=D0) for name, tensor in wanted.items()}
    name = "layers.0.weight"
    odd = torch_npu.empty_with_format(
        list(wanted[name].shape), dtype=torch.float32, device=D0, acl_format=29
    )
    assert odd.is_contiguous()
    assert not npu.is_plain(odd)
    assert all(npu.is_plain(tensor) for tensor in target.values())
    target[name] = odd
    asked = []
    copy = torch.Tensor.copy_

    def noticed(to: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        asked.append(to.data_ptr())
        return copy(to, *rest, **more)  # type: ignore[arg-type]

    torch.Tensor.copy_ = noticed  # type: ignore[assignment]
    try:
        fill("tiny", target, staging)
    except ckptfmt.DeviceError as error:
        assert name in str(error)
    finally:
        torch.Tensor.copy_ = copy  # type: ignore[method-assign]
    assert asked == [odd.data_ptr()]


def cast_without_room(model: str) -> None:
    """A cast that does not fit is told as that, and all that was taken is back."""
    simulator = Simulator()
    before = held(simulator)
    try:
        load(model, dtype="fp32")
    except ckptfmt.OutOfMemoryError as error:
        assert D0 in str(error)
        assert error.hint
    else:
        raise AssertionError("there is no such memory")
    assert held(simulator) == before
