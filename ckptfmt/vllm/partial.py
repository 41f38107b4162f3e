"""A tensor of which a part was read, standing for the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What can be asked without any element. The whole tensor's answers are given.
_ABOUT = frozenset(
    {
        *(getattr(torch.Tensor, name).__get__ for name in (
            "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_meta", "is_cpu",
            "is_cuda", "is_sparse", "is_quantized", "itemsize", "nbytes",
        )),
        *(getattr(torch.Tensor, name) for name in (
            "size", "dim", "numel", "nelement", "element_size", "ndimension", "stride",
            "is_contiguous", "is_floating_point", "is_complex", "get_device", "__len__",
        )),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a tensor: ``start`` to ``stop`` of one dimension, all of the others."""

    dim: int
    start: int
    stop: int

    def has(self, other: Part) -> bool:
        """Whether another part lies within this one."""
        return self.dim == other.dim and self.start <= other.start <= other.stop <= self.stop

    def is_all_of(self, shape: Sequence[int]) -> bool:
        """Whether nothing of a tensor of that shape is left out."""
        return self.stop - self.start == shape[self.dim]


class PartialTensor(torch.Tensor):  # type: ignore[misc]  # torch is not looked at
    """Has the shape of a whole tensor and the bytes of a part of it.

    A loader of vLLM that narrows it to what lies within the part gets that, and nothing more is
    read. Whatever else is done with it reads the whole tensor first: so a part that was chosen
    wrongly costs time and changes no result.

    Parameters
    ----------
    shape : tuple of int
        Of the whole tensor.
    data : Tensor
        The part.
    part : Part
        Where it lies.
    read_whole : callable
        Reads the whole tensor, to the same device.
    """

    _data: torch.Tensor
    _part: Part
    _read_whole: Callable[[], torch.Tensor]
    _whole: torch.Tensor | None

    @staticmethod
    def __new__(
        cls: type[PartialTensor],
        shape: tuple[int, ...],
        data: torch.Tensor,
        part: Part,
        read_whole: Callable[[], torch.Tensor],
    ) -> PartialTensor:
        self: PartialTensor = torch.Tensor._make_wrapper_subclass(  # without memory
            cls, shape, dtype=data.dtype, device=data.device, requires_grad=False
        )
        self._data, self._part, self._read_whole, self._whole = data, part, read_whole, None
        return self

    def whole(self) -> torch.Tensor:
        """The whole tensor, read at the first call."""
        if self._whole is None:
            self._whole = self._read_whole()
        return self._whole

    def narrow_within(self, dim: Any, start: Any, length: Any) -> torch.Tensor | None:
        """What ``narrow`` gives, if the part has it."""
        part, first, count = self._part, int(start), int(length)
        if not -self.dim() <= dim < self.dim():
            return None
        if not part.has(Part(dim % self.dim(), first, first + count)):
            return None
        return self._data.narrow(part.dim, first - part.start, count)

    def unsqueezed(self) -> PartialTensor:
        """As ``unsqueeze(0)``: to vLLM, a single expert is several, until it is taken out."""
        part = Part(self._part.dim + 1, self._part.start, self._part.stop)
        return PartialTensor(
            (1, *self.shape), self._data.unsqueeze(0), part, lambda: self.whole().unsqueeze(0)
        )

    def unbound(self) -> tuple[PartialTensor] | None:
        """As ``unbind(0)``, if there is only one in the first dimension."""
        part = Part(self._part.dim - 1, self._part.start, self._part.stop)
        if part.dim < 0 or self.shape[0] != 1:
            return None
        return (
            PartialTensor(tuple(self.shape[1:]), self._data[0], part, lambda: self.whole()[0]),
        )

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        found = _of_part(func, *args, **kwargs) if isinstance(args[0], cls) else None
        return found if found is not None else func(*_whole(args), **_whole(kwargs))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # What comes here went past the above, from inside torch.
        return func(*_whole(args), **_whole(kwargs or {}))


def _of_part(func: Any, tensor: PartialTensor, *args: Any, **kwargs: Any) -> Any:
    """What the part is enough for; None if it is not."""
    if func in (torch.Tensor.narrow, torch.narrow):
        return _narrowed(tensor, *args, **kwargs)
    if func is torch.Tensor.unsqueeze and args == (0,):
        return tensor.unsqueezed()
    if func is torch.Tensor.unbind and not args and not kwargs:
        return tensor.unbound()
    return None


def _narrowed(
    tensor: PartialTensor, dim: Any = None, start: Any = None, length: Any = None, **_: Any
) -> torch.Tensor | None:
    return tensor.narrow_within(dim, start, length)


def _whole(values: Any) -> Any:
    return tree_map_only(PartialTensor, PartialTensor.whole, values)
