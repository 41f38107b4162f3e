"""Regions of memory become torch tensors or numpy arrays that own them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt._core import capsule
from ckptfmt.dtypes import DTYPES, Dtype, import_torch, to_torch
from ckptfmt.errors import OptionError, UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptfmt._core import Region
    from ckptfmt.index import TensorEntry

FRAMEWORKS = ("torch", "numpy")
#: DLPack's codes of the dtypes that every torch takes as capsules.
DLPACK_CODES = {
    "U8": 1, "I8": 0, "I16": 0, "I32": 0, "I64": 0,
    "F16": 2, "BF16": 4, "F32": 2, "F64": 2, "C64": 5, "C128": 5,
}  # fmt: skip


def check_framework(framework: str, entries: Iterable[TensorEntry]) -> None:
    """Refuse before reading what could not be handed out after it."""
    if framework not in FRAMEWORKS:
        raise OptionError(f"framework is {framework!r}, expected 'torch' or 'numpy'")
    for dtype in {entry.dtype for entry in entries}:
        row = DTYPES[dtype]
        if framework == "torch":
            to_torch(row)
        elif row.numpy_name is None:
            name = next(entry.name for entry in entries if entry.dtype == dtype)
            raise UnsupportedDtypeError(
                f"numpy has no dtype for {dtype}, which tensor {name!r} has",
                hint='load with framework="torch", or convert with --dtype fp32',
            )


def maker(framework: str) -> Callable[[TensorEntry, Region | None], Any]:
    """A function that makes a tensor of a region; None stands for no bytes at all."""
    return _torch_maker() if framework == "torch" else _numpy_maker()


def _torch_maker() -> Callable[[TensorEntry, Region | None], Any]:
    torch = import_torch()
    known: dict[str, tuple[Any, Dtype, int | None]] = {}

    def make(entry: TensorEntry, region: Region | None) -> Any:
        found = known.get(entry.dtype)
        if found is None:
            row = DTYPES[entry.dtype]
            found = known[entry.dtype] = (to_torch(row), row, DLPACK_CODES.get(row.name))
        dtype, row, code = found
        shape = entry.shape
        if region is not None and code is not None:
            return torch.from_dlpack(capsule(region, code, row.bits, shape))
        if row.pack > 1:
            shape = (*shape[:-1], shape[-1] // row.pack)
        if region is None:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(region, dtype=dtype).view(shape)

    return make


def device_maker(device: str) -> Callable[[TensorEntry, Any], Any]:
    """A function that makes a tensor of bytes on a device; None stands for no bytes at all."""
    torch = import_torch()

    def make(entry: TensorEntry, data: Any) -> Any:
        row = DTYPES[entry.dtype]
        shape = entry.shape
        if row.pack > 1:
            shape = (*shape[:-1], shape[-1] // row.pack)
        if data is None:  # made like the others: torch_npu makes no complex ones by itself
            data = torch.empty(0, dtype=torch.uint8, device=device)
        return data.view(to_torch(row)).view(shape)

    return make


def _numpy_maker() -> Callable[[TensorEntry, Region | None], Any]:
    import numpy as np  # noqa: PLC0415

    def make(entry: TensorEntry, region: Region | None) -> Any:
        dtype = np.dtype(DTYPES[entry.dtype].numpy_name)
        if region is None:
            return np.empty(entry.shape, dtype)
        return np.frombuffer(memoryview(region), dtype).reshape(entry.shape)

    return make


def alias(tensor: Any) -> Any:
    """Another object over the same memory, for the further names of tied weights."""
    return tensor.detach() if hasattr(tensor, "detach") else tensor[...]


def check_cast(framework: str, row: Dtype) -> None:
    """Refuse before reading a dtype that the framework does not have."""
    if framework == "numpy" and row.numpy_name is None:
        raise UnsupportedDtypeError(
            f"numpy has no dtype for {row.name}", hint='load with framework="torch"'
        )


def cast_into(target: Any, tensor: Any) -> None:
    """Fill a floating tensor with the values of another, rounded to nearest even."""
    if hasattr(target, "copy_"):
        target.copy_(tensor)
        return
    import numpy as np  # noqa: PLC0415

    with np.errstate(all="ignore"):  # as torch: too large is infinite, and no word of it
        np.copyto(target, tensor, casting="unsafe")
