"""The table of dtypes: the name in the index, its bits, and what torch and numpy call it.

Names are those of safetensors where it has one (its ``Dtype`` enumeration, release 0.8), the
natural continuation for torch's other complex types, and torch's own name in capitals for its shell
dtypes.
A shape counts elements of ``bits`` bits, as safetensors counts them: torch's ``float4_e2m1fn_x2``
holds two ``F4`` elements, so its last dimension is half of the one in the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import MissingDependencyError, UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Dtype:
    """One row of the table.

    Attributes
    ----------
    name : str
        Spelling in the index.
    bits : int
        Bits of one element of a shape.
    torch_name, numpy_name : str or None
        Attribute of ``torch``; name for ``numpy.dtype``. None where there is no such dtype.
    pack : int
        Elements of the shape in one torch element.
    is_float : bool
        Whether ``--dtype`` casts it: real floating point of 16 bits or more. Narrower ones
        are quantized and mean nothing without their scales.
    """

    name: str
    bits: int
    torch_name: str | None = None
    numpy_name: str | None = None
    pack: int = 1
    is_float: bool = False

    @property
    def in_safetensors(self) -> bool:
        """Whether safetensors has this dtype."""
        if self.name in ("C32", "C128"):
            return False
        return not self.name.startswith(("INT", "UINT", "BITS"))

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of `shape`, rounded up to whole bytes."""
        return (prod(shape) * self.bits + 7) // 8


_ROWS = [
    Dtype("BOOL", 8, "bool", "bool"),
    Dtype("U8", 8, "uint8", "uint8"),
    Dtype("I8", 8, "int8", "int8"),
    Dtype("U16", 16, "uint16", "uint16"),
    Dtype("I16", 16, "int16", "int16"),
    Dtype("U32", 32, "uint32", "uint32"),
    Dtype("I32", 32, "int32", "int32"),
    Dtype("U64", 64, "uint64", "uint64"),
    Dtype("I64", 64, "int64", "int64"),
    Dtype("F16", 16, "float16", "float16", is_float=True),
    Dtype("BF16", 16, "bfloat16", is_float=True),
    Dtype("F32", 32, "float32", "float32", is_float=True),
    Dtype("F64", 64, "float64", "float64", is_float=True),
    Dtype("C32", 32, "complex32"),
    Dtype("C64", 64, "complex64", "complex64"),
    Dtype("C128", 128, "complex128", "complex128"),
    Dtype("F8_E4M3", 8, "float8_e4m3fn"),
    Dtype("F8_E5M2", 8, "float8_e5m2"),
    Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz"),
    Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz"),
    Dtype("F8_E8M0", 8, "float8_e8m0fnu"),
    Dtype("F4", 4, "float4_e2m1fn_x2", pack=2),
    Dtype("F6_E2M3", 6),
    Dtype("F6_E3M2", 6),
    *(
        Dtype(f"{sign}INT{n}".upper(), 8, f"{sign}int{n}")
        for sign in ("", "u")
        for n in range(1, 8)
    ),
    Dtype("BITS8", 8, "bits8"),
    Dtype("BITS16", 16, "bits16"),
    Dtype("BITS1X8", 8, "bits1x8"),
    Dtype("BITS2X4", 8, "bits2x4"),
    Dtype("BITS4X2", 8, "bits4x2"),
]

DTYPES: dict[str, Dtype] = {row.name: row for row in _ROWS}
_BY_TORCH_NAME = {row.torch_name: row for row in _ROWS if row.torch_name}
_BY_NUMPY_NAME = {row.numpy_name: row for row in _ROWS if row.numpy_name}

#: What ``--dtype`` and ``dtype=`` accept, and the dtype each means.
CASTS = {
    "bf16": "BF16", "bfloat16": "BF16",
    "fp16": "F16", "float16": "F16", "half": "F16",
    "fp32": "F32", "float32": "F32", "float": "F32",
}  # fmt: skip


def cast_target(value: object) -> Dtype | None:
    """The dtype that floating tensors are cast to; None for None and ``"keep"``.

    Parameters
    ----------
    value : str, torch.dtype or None
        ``"keep"``, ``"bf16"``, ``"fp16"``, ``"fp32"``, or the torch dtype of one of these.

    Raises
    ------
    UnsupportedDtypeError
        Another value.
    """
    if value is None or value == "keep":
        return None
    name = CASTS.get(str(value).removeprefix("torch.").lower())
    if name is None:
        raise UnsupportedDtypeError(
            f"cannot cast to {value!r}", hint="allowed: keep, bf16, fp16, fp32"
        )
    return DTYPES[name]


def cast_name(row: Dtype | None) -> str:
    """The shortest spelling of a cast: ``keep``, ``bf16``, ``fp16`` or ``fp32``."""
    return next(text for text, name in CASTS.items() if name == row.name) if row else "keep"


def from_torch(dtype: object) -> Dtype:
    """The row of a ``torch.dtype``."""
    row = _BY_TORCH_NAME.get(str(dtype).removeprefix("torch."))
    if row is None:
        raise UnsupportedDtypeError(
            f"cannot store tensors of {dtype}",
            hint="quantized torch tensors keep their scales in the object: store int_repr(), "
            "scales and zero points as tensors of their own",
        )
    return row


def from_numpy(dtype: object) -> Dtype:
    """The row of a ``numpy.dtype``."""
    row = _BY_NUMPY_NAME.get(str(dtype))
    if row is None:
        raise UnsupportedDtypeError(f"cannot store numpy arrays of {dtype}")
    return row


def import_torch() -> Any:
    """The torch module, or an error that says how to get it."""
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"torch cannot be imported: {error}",
            hint='pip install torch, or load with framework="numpy"',
        ) from error
    return torch


def to_torch(row: Dtype) -> Any:
    """The ``torch.dtype`` of a row."""
    torch = import_torch()
    dtype = getattr(torch, row.torch_name, None) if row.torch_name else None
    if dtype is None:
        raise UnsupportedDtypeError(
            f"torch {torch.__version__} has no dtype for {row.name}",
            hint="a newer torch may have it; ckptfmt.open(path).read(name) gives the bytes",
        )
    return dtype
