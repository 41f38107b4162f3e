"""The table of dtypes: complete, and the same names that torch, numpy and safetensors use."""

from __future__ import annotations

import json
import re
import struct
from math import prod

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from ckptfmt import dtypes
from ckptfmt.dtypes import DTYPES, Dtype
from ckptfmt.errors import MissingDependencyError, UnsupportedDtypeError

TORCH = {
    str(found): found
    for found in (getattr(torch, name) for name in dir(torch))
    if isinstance(found, torch.dtype)
}
QUANTIZED = {"qint8", "quint8", "qint32", "quint4x2", "quint2x4"}


def safetensors_names() -> set[str]:
    """The library's own list, from its complaint about a dtype it does not know."""
    header = json.dumps({"x": {"dtype": "?", "shape": [], "data_offsets": [0, 0]}}).encode()
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(struct.pack("<Q", len(header)) + header)
    names = set(re.findall(r"`([A-Z0-9_]+)`", str(caught.value)))
    assert {"BOOL", "F32", "BF16"} <= names
    return names


def test_every_dtype_of_safetensors_is_in_the_table() -> None:
    assert safetensors_names() <= DTYPES.keys()


def test_what_safetensors_does_not_have_is_known() -> None:
    # An older library knows fewer; what it knows, the table calls so.
    marked = {name for name, row in DTYPES.items() if row.in_safetensors}
    release_0_8 = {
        "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0",
        "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64",
        "F64", "I64", "U64",
    }  # fmt: skip
    assert safetensors_names() <= marked
    assert marked == release_0_8


@pytest.mark.parametrize("name", sorted(TORCH))
def test_every_dtype_of_torch_is_stored_or_refused_as_quantized(name: str) -> None:
    if name.removeprefix("torch.") in QUANTIZED:
        with pytest.raises(UnsupportedDtypeError, match=name) as caught:
            dtypes.from_torch(TORCH[name])
        assert "quantized" in str(caught.value.hint)
        return
    row = dtypes.from_torch(TORCH[name])
    assert dtypes.to_torch(row) is TORCH[name]
    assert row.bits * row.pack == 8 * TORCH[name].itemsize


@pytest.mark.parametrize("row", DTYPES.values(), ids=DTYPES.keys())
def test_a_row_means_the_same_to_torch_and_numpy(row: Dtype) -> None:
    if row.numpy_name is not None:
        dtype = np.dtype(row.numpy_name)
        assert dtypes.from_numpy(dtype) is row
        assert dtype.itemsize * 8 == row.bits
        array = np.frombuffer(bytes(range(1, 1 + dtype.itemsize)), dtype)
        if row.name != "BOOL":
            assert torch.from_numpy(array.copy()).dtype is dtypes.to_torch(row)
    if row.torch_name is not None and hasattr(torch, row.torch_name):
        dtype = getattr(torch, row.torch_name)
        assert dtypes.from_torch(dtype) is row
        real = dtype.is_floating_point and row.bits >= 16
        assert row.is_float == real
    assert dtypes.DTYPES[row.name] is row


@pytest.mark.parametrize("name", sorted(set(TORCH) - {f"torch.{q}" for q in QUANTIZED}))
def test_safetensors_gives_a_torch_tensor_the_same_name_and_shape(name: str) -> None:
    row = dtypes.from_torch(TORCH[name])
    if not row.in_safetensors:
        return
    tensor = torch.zeros(2 * 3 * 16, dtype=torch.uint8).view(TORCH[name]).view(2, 3, -1)
    data = safetensors.torch.save({"x": tensor})
    (nbytes,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + nbytes])["x"]
    assert entry["dtype"] == row.name
    assert entry["shape"] == [2, 3, 16 * 8 // row.bits]
    assert row.nbytes(entry["shape"]) == 96


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("F32", (), 4), ("F32", (0,), 0), ("F32", (3, 5), 60), ("F4", (2,), 1), ("F4", (3, 4), 6),
        ("F4", (0,), 0), ("F6_E2M3", (4,), 3), ("F6_E3M2", (8, 2), 12), ("F6_E2M3", (3,), 3),
        ("BOOL", (9,), 9), ("C128", (2,), 32), ("INT1", (9,), 9), ("U64", (1 << 60,), 1 << 63),
    ],
)  # fmt: skip
def test_bytes_of_a_shape(name: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert DTYPES[name].nbytes(shape) == nbytes
    assert nbytes == -(-prod(shape) * DTYPES[name].bits // 8)


def test_only_f4_has_several_elements_in_one_of_torch() -> None:
    assert {name: row.pack for name, row in DTYPES.items() if row.pack != 1} == {"F4": 2}


def test_only_real_floats_of_16_bits_and_more_are_cast() -> None:
    assert {n for n, row in DTYPES.items() if row.is_float} == {"F16", "BF16", "F32", "F64"}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("bf16", "BF16"), ("BF16", "BF16"), ("bfloat16", "BF16"), ("torch.bfloat16", "BF16"),
        ("fp16", "F16"), ("half", "F16"), ("float16", "F16"), ("fp32", "F32"), ("float", "F32"),
        (torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16"),
    ],
)  # fmt: skip
def test_spellings_of_a_cast(value: object, name: str) -> None:
    row = dtypes.cast_target(value)
    assert row is DTYPES[name]
    assert dtypes.cast_name(row) == {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}[name]


def test_no_cast() -> None:
    assert dtypes.cast_target(None) is None
    assert dtypes.cast_target("keep") is None
    assert dtypes.cast_name(None) == "keep"


@pytest.mark.parametrize(
    "value", ["", "f8", "int8", "fp64", torch.float64, torch.int8, 16, "F8_E4M3", "keep "]
)
def test_another_cast_is_refused(value: object) -> None:
    with pytest.raises(UnsupportedDtypeError, match="cannot cast to") as caught:
        dtypes.cast_target(value)
    assert "keep, bf16, fp16, fp32" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["U3", "O", "M8[s]", "float128", "V7", ">f4"])
def test_numpy_dtypes_that_are_no_tensors_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedDtypeError, match="cannot store numpy arrays"):
        dtypes.from_numpy(np.dtype(text))


@pytest.mark.parametrize("name", ["F6_E2M3", "F6_E3M2"])
def test_a_dtype_that_torch_lacks_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnsupportedDtypeError, match=f"has no dtype for {name}") as caught:
        dtypes.to_torch(DTYPES[name])
    assert "read(name)" in str(caught.value.hint)


def test_a_dtype_of_a_newer_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    with pytest.raises(UnsupportedDtypeError, match="has no dtype for F8_E8M0"):
        dtypes.to_torch(DTYPES["F8_E8M0"])


def test_without_torch_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="torch cannot be imported") as caught:
        dtypes.import_torch()
    assert "pip install torch" in str(caught.value.hint)
