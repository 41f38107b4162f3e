"""Tensors that torch holds: what a live module or dict and a ``.bin`` file have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
from ckptfmt.errors import SourceError, UnsupportedDtypeError
from ckptfmt.sources.base import Description
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


class TorchTensors:
    """Tensors by name, on any device, dense or strided.

    Tied means the same storage, offset, dtype, shape and strides. Whatever else overlaps (a view of
    a larger tensor, a transpose) is written out on its own, with the bytes it shows.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        In the order to be stored.
    kind : str
        For provenance.
    where : str
        For messages.
    """

    def __init__(self, tensors: Mapping[str, Any], *, kind: str, where: str) -> None:
        self.tensors: list[TensorSpec] = []
        self.description = Description(kind)
        self._values: list[Any] = []
        names: dict[object, list[str]] = {}
        values: dict[object, Any] = {}
        for name, tensor in tensors.items():
            _check(name, tensor, where)
            key = _identity(tensor)
            names.setdefault(key, []).append(name)
            values.setdefault(key, tensor)
        for key, tied in names.items():
            tensor = values[key].detach()
            row = dtypes.from_torch(tensor.dtype)
            shape = tuple(tensor.shape)
            if row.pack > 1:
                if not shape:
                    raise UnsupportedDtypeError(f"{where}: {tied[0]!r} is a scalar of {row.name}")
                shape = (*shape[:-1], shape[-1] * row.pack)
            self.tensors.append(TensorSpec(tuple(tied), row.name, shape))
            self._values.append(tensor)

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on, whatever its strides and device."""
        torch = dtypes.import_torch()
        value = self._values[tensor]
        out = torch.frombuffer(buffer, dtype=torch.uint8)
        for done, run in _runs(value, start, len(buffer)):
            out[done : done + run.numel()].copy_(run)

    def close(self) -> None:
        """Let the tensors go."""
        self._values = []


def _runs(value: Any, start: int, nbytes: int) -> Any:
    """Contiguous byte runs that make up ``[start, start + nbytes)`` of the row-major tensor.

    A strided tensor is made contiguous row by row, never as a whole; so is one whose conjugation or
    negation is still to be carried out.
    """
    torch = dtypes.import_torch()
    if value.is_contiguous() and not (value.is_conj() or value.is_neg()):
        flat = value.view(-1)
        # Bytes of a flat tensor; view() to uint8 also works for the dtypes without any operators.
        yield 0, flat.view(torch.uint8)[start : start + nbytes]
        return
    size = value.element_size()
    if value.dim() == 0:
        value = value.view(1)
    inner = size
    for extent in value.shape[1:]:
        inner *= extent
    first, last = start // inner, -(-(start + nbytes) // inner)
    if inner > ROW_NBYTES and value.dim() > 1:
        for row in range(first, last):
            low = max(start, row * inner)
            high = min(start + nbytes, (row + 1) * inner)
            for done, run in _runs(value[row], low - row * inner, high - low):
                yield low - start + done, run
        return
    step = max(1, ROW_NBYTES // inner)
    for row in range(first, last, step):
        stop = min(row + step, last)
        low, high = max(start, row * inner), min(start + nbytes, stop * inner)
        rows = value[row:stop].resolve_conj().resolve_neg()
        if not rows.dtype.is_complex:
            rows = rows.view(getattr(torch, _INTEGERS[size]))
        dense = rows.contiguous().view(-1).view(torch.uint8)
        yield low - start, dense[low - row * inner : high - row * inner]


#: As which a tensor is made contiguous: dtypes without operators cannot be copied as they are.
_INTEGERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
#: Bytes made contiguous at a time.
ROW_NBYTES = 4 << 20


def _check(name: object, tensor: Any, where: str) -> None:
    if not isinstance(name, str):
        raise SourceError(f"{where}: {name!r} is no tensor name")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: the name {name!r} cannot be written as UTF-8") from error
    if not hasattr(tensor, "untyped_storage"):
        raise SourceError(
            f"{where}: {name!r} is a {type(tensor).__name__}, expected a tensor",
            hint="pass the state dict itself, not a training checkpoint around it",
        )
    if str(tensor.layout) != "torch.strided" or tensor.is_meta or tensor.is_quantized:
        what = "on the meta device" if tensor.is_meta else str(tensor.layout)
        what = "quantized" if tensor.is_quantized else what
        raise UnsupportedDtypeError(
            f"{where}: {name!r} is {what}, which cannot be stored",
            hint="store dense tensors: to_dense(), or int_repr(), scales and zero points apart",
        )


def _identity(tensor: Any) -> object:
    """Equal for tied tensors only; empty ones are never tied, they all lie at address 0."""
    if tensor.numel() == 0:
        return id(tensor)
    return (
        str(tensor.device), tensor.untyped_storage().data_ptr(), tensor.storage_offset(),
        tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()),
        tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip
