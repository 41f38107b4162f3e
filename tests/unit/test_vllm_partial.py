"""A tensor of which a part was read: what it gives from the part, and when it reads the whole."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from ckptfmt.vllm.partial import Part, PartialTensor  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE = torch.arange(48, dtype=torch.float32).view(8, 6)


class Read:
    """Reads the whole, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return WHOLE.clone()


def rows(start: int, stop: int) -> tuple[PartialTensor, Read]:
    read = Read()
    return PartialTensor((8, 6), WHOLE[start:stop].clone(), Part(0, start, stop), read), read


def columns(start: int, stop: int) -> tuple[PartialTensor, Read]:
    read = Read()
    data = WHOLE[:, start:stop].clone()
    return PartialTensor((8, 6), data, Part(1, start, stop), read), read


def test_it_looks_like_the_whole() -> None:
    tensor, read = rows(4, 8)
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.shape, tensor.size(), tensor.size(1)) == ((8, 6), (8, 6), 6)
    assert (tensor.dim(), tensor.ndim, len(tensor), tensor.numel()) == (2, 2, 8, 48)
    assert (tensor.dtype, str(tensor.device)) == (torch.float32, "cpu")
    assert (tensor.element_size(), tensor.nbytes) == (4, 192)
    assert tensor.is_floating_point()
    assert not tensor.requires_grad
    assert not tensor.is_meta
    assert read.times == 0


def test_it_takes_attributes_as_loaders_of_vllm_set_them() -> None:
    tensor, _ = rows(4, 8)
    tensor.shard_id = "q"
    assert tensor.shard_id == "q"
    assert getattr(tensor, "is_sharded_weight", False) is False


@pytest.mark.parametrize(
    "narrow",
    [
        lambda t: t.narrow(0, 4, 4), lambda t: t.narrow(-2, 4, 4),
        lambda t: t.narrow(dim=0, start=4, length=4), lambda t: torch.narrow(t, 0, 4, 4),
        lambda t: t.narrow(0, torch.tensor(4), 4),
    ],
)  # fmt: skip
def test_what_lies_within_the_part_comes_from_it(narrow: Callable[[Any], Any]) -> None:
    tensor, read = rows(4, 8)
    assert torch.equal(narrow(tensor), WHOLE[4:8])
    assert read.times == 0


def test_less_than_the_part_does_too_and_again() -> None:
    tensor, read = rows(2, 6)
    for _ in range(2):
        assert torch.equal(tensor.narrow(0, 3, 2), WHOLE[3:5])
    assert tensor.narrow(0, 6, 0).shape == (0, 6)
    assert read.times == 0


def test_columns_do_too() -> None:
    tensor, read = columns(3, 6)
    assert torch.equal(tensor.narrow(1, 3, 3), WHOLE[:, 3:6])
    assert torch.equal(tensor.narrow(-1, 4, 1), WHOLE[:, 4:5])
    assert read.times == 0
    assert torch.equal(tensor.narrow(0, 0, 4), WHOLE[:4])
    assert read.times == 1


@pytest.mark.parametrize(
    "narrow",
    [lambda t: t.narrow(0, 3, 4), lambda t: t.narrow(0, 5, 3), lambda t: t.narrow(1, 4, 2)],
)
def test_other_ranges_read_the_whole_once(narrow: Callable[[Any], Any]) -> None:
    tensor, read = rows(4, 7)
    assert torch.equal(narrow(tensor), narrow(WHOLE))
    assert torch.equal(narrow(tensor), narrow(WHOLE))
    assert read.times == 1


@pytest.mark.parametrize("arguments", [(0, 4, 5), (0, -9, 1), (2, 0, 1), (0, 4, -1)])
def test_ranges_that_are_wrong_fail_as_on_the_whole(arguments: tuple[int, ...]) -> None:
    tensor, _ = rows(4, 8)
    with pytest.raises((RuntimeError, IndexError)) as expected:
        WHOLE.narrow(*arguments)
    with pytest.raises(type(expected.value)) as found:
        tensor.narrow(*arguments)
    assert str(found.value) == str(expected.value)


def test_a_dimension_of_one_in_front_comes_and_goes() -> None:
    """As vLLM does with a single expert."""
    tensor, read = columns(3, 6)
    (same,) = tensor.unsqueeze(0).unbind()
    assert (tensor.unsqueeze(0).shape, same.shape) == ((1, 8, 6), (8, 6))
    assert torch.equal(same.narrow(1, 4, 2), WHOLE[:, 4:6])
    assert read.times == 0
    tensor, read = rows(4, 8)
    (same,) = tensor.unsqueeze(0).unbind()
    assert torch.equal(same.narrow(0, 4, 4), WHOLE[4:8])
    assert torch.equal(tensor.unsqueeze(0).narrow(1, 5, 2), WHOLE[None, 5:7])
    assert read.times == 0
    assert torch.equal(same.narrow(0, 0, 4), WHOLE[:4])
    assert torch.equal(tensor.unsqueeze(0) + 0, WHOLE[None])
    assert torch.equal(torch.stack(tensor.unbind()), WHOLE)
    assert torch.equal(tensor.unsqueeze(1), WHOLE[:, None])
    assert read.times == 1


USES: dict[str, Callable[[Any], Any]] = {
    "index": lambda t: t[2], "slice": lambda t: t[4:8], "transpose": lambda t: t.t(),
    "view": lambda t: t.view(-1), "cast": lambda t: t.to(torch.float64), "sum": lambda t: t + 1,
    "right operand": lambda t: torch.ones(6) * t, "cat": lambda t: torch.cat([t, t]),
    "stack": lambda t: torch.stack((t, t)), "chunk": lambda t: torch.cat(t.chunk(2)),
    "clone": lambda t: t.clone(), "detach": lambda t: t.detach(), "data": lambda t: t.data,
    "contiguous": lambda t: t.contiguous(), "numpy": lambda t: torch.from_numpy(t.numpy()),
    "out of place": lambda t: torch.empty(8, 6).copy_(t), "exp": lambda t: -torch.exp(t.float()),
    "copy": copy.deepcopy, "tolist": lambda t: torch.tensor(t.tolist()),
    "like": torch.zeros_like,
    "inside of torch": lambda t: torch.nn.functional.linear(torch.eye(6), t),
    "pieces": lambda t: torch.cat([row.view(1, -1) for row in t]),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_any_other_use_is_one_of_the_whole(name: str) -> None:
    tensor, read = rows(4, 8)
    found = USES[name](tensor)
    assert torch.equal(found, USES[name](WHOLE))
    assert type(found) is torch.Tensor
    assert read.times <= 1


def test_a_parameter_of_another_class_is_filled() -> None:
    class Weight(torch.nn.Parameter):
        """As vLLM has them."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            return super().__torch_function__(func, types, args, kwargs or {})

    weight = Weight(torch.zeros(8, 6), requires_grad=False)
    tensor, read = rows(0, 4)
    weight.data.copy_(tensor)
    weight.copy_(tensor)
    assert torch.equal(weight.data, WHOLE)
    assert read.times == 1


def test_what_went_past_the_face_is_caught_below() -> None:
    """As from inside of torch, where only the dispatcher sees it."""
    tensor, read = rows(0, 4)
    with torch._C.DisableTorchFunctionSubclass():
        assert torch.equal(torch.ops.aten.add(tensor, 0), WHOLE)
    assert read.times == 1
