"""Every dtype, shape and name that can be met goes through unchanged, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptfmt
from ckptfmt.dtypes import DTYPES
from tests.helpers.handmade import write_safetensors
from tests.helpers.models import equal_bits, random_tensor

IN_TORCH = [n for n, row in DTYPES.items() if row.torch_name and hasattr(torch, row.torch_name)]
NOT_IN_TORCH = ["F6_E2M3", "F6_E3M2"]
#: Packed: an element of the shape is no element of torch's.
SHELLS = [n for n in IN_TORCH if n.startswith(("INT", "UINT", "BITS"))]
SHAPES = {"scalar": (), "empty": (0,), "empty 3-D": (2, 0, 3), "5-D": (2, 1, 3, 2, 2), "odd": (37,)}
NAMES = [
    "", ".", "..", "a.b.c", "a/b", "../x", "/etc/passwd", "__metadata__", "ünï.cödé", "重み.層0",
    "🦙", "new\nline", "tab\tand\rreturn", "nul\0in", "\x1b[31mred", 'quote"back\\slash', " space ",
    "x" * 3000, "part-00000.ckptfmt", "ckptfmt.json", "*", "[a]", "a?",
]  # fmt: skip

# torch says so once, to whoever makes the first complex32 tensor.
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def _torch_dtype(name: str) -> torch.dtype:
    return getattr(torch, DTYPES[name].torch_name)


def _convert(source: object, folder: Path, **options: object) -> Path:
    ckptfmt.convert(source, folder / "x.ckpt", **options)
    return folder / "x.ckpt"


def test_this_torch_has_what_is_tested_here() -> None:
    """Newer dtypes depend on the release; these are in every one that is supported."""
    assert {"BOOL", "BF16", "F8_E4M3", "F8_E5M2", "C32", "C128", "I64", "BITS16"} <= set(IN_TORCH)
    assert not set(NOT_IN_TORCH) & set(IN_TORCH)


@pytest.mark.parametrize("name", IN_TORCH)
def test_random_bits_of_every_dtype_come_back(name: str, tmp_path: Path) -> None:
    dtype = _torch_dtype(name)
    wanted = {
        shape: random_tensor(dims, dtype, seed)
        for seed, (shape, dims) in enumerate(SHAPES.items())
        if dims or DTYPES[name].pack == 1  # half a byte is no scalar
    }
    wanted["blocks"] = random_tensor((3, 70001), dtype, 9)
    target = _convert(wanted, tmp_path)
    for found in (ckptfmt.load(target), ckptfmt.load(target, mmap=True)):
        assert found.keys() == wanted.keys()
        assert all(equal_bits(found[n], t) for n, t in wanted.items())
    assert ckptfmt.verify(target).problems == []


@pytest.mark.parametrize("name", IN_TORCH)
def test_a_strided_view_of_every_dtype_is_written_as_it_looks(name: str, tmp_path: Path) -> None:
    base = random_tensor((6, 10), _torch_dtype(name))
    size = base.element_size()
    raw = base.reshape(-1).view(torch.uint8).view(6, 10, size)
    target = _convert({"t": base.t(), "cut": base[1::2, 3:8]}, tmp_path)
    found = ckptfmt.load(target)
    for key, wanted in (("t", raw.transpose(0, 1)), ("cut", raw[1::2, 3:8])):
        bits = found[key].reshape(-1).view(torch.uint8)
        assert torch.equal(bits, wanted.contiguous().view(-1))
        assert tuple(found[key].shape) == tuple(wanted.shape[:2])


@pytest.mark.parametrize("name", [n for n, row in DTYPES.items() if row.in_safetensors])
def test_safetensors_of_every_dtype_go_there_and_back(name: str, tmp_path: Path) -> None:
    row = DTYPES[name]
    shape = [5, 8]
    data = np.random.default_rng(1).bytes(row.nbytes(shape))
    source = write_safetensors(
        tmp_path / "a.safetensors", {"x": (name, shape, data), "e": (name, [0, 8], b"")}
    )
    target = _convert(source, tmp_path)
    with ckptfmt.open(target) as checkpoint:
        assert (checkpoint.info("x").dtype, checkpoint.info("x").shape) == (name, (5, 8))
        assert bytes(checkpoint.read("x")) == data
        assert bytes(checkpoint.read("e")) == b""
    ckptfmt.export(target, tmp_path / "back")
    assert ckptfmt.verify(target, against=tmp_path / "back").compared == 2
    again = tmp_path / "again.ckpt"
    ckptfmt.convert(tmp_path / "back", again)
    with ckptfmt.open(again) as checkpoint:
        assert bytes(checkpoint.read("x")) == data


@pytest.mark.parametrize("name", NOT_IN_TORCH)
def test_what_torch_lacks_is_refused_by_name_and_its_bytes_are_to_be_had(
    name: str, tmp_path: Path
) -> None:
    source = write_safetensors(
        tmp_path / "a.safetensors",
        {"six": (name, [2, 4], b"\x01\x02\x03\x04\x05\x06"), "ok": ("U8", [2], b"ab")},
    )
    target = _convert(source, tmp_path)
    assert ckptfmt.verify(target, against=source).problems == []
    for framework in ("torch", "numpy"):
        with pytest.raises(ckptfmt.UnsupportedDtypeError, match=name):
            ckptfmt.load(target, framework=framework)
    assert ckptfmt.load(target, names="ok")["ok"].tolist() == [97, 98]
    with ckptfmt.open(target) as checkpoint:
        assert bytes(checkpoint.read("six")) == b"\x01\x02\x03\x04\x05\x06"
        with pytest.raises(ckptfmt.UnsupportedDtypeError, match=name):
            checkpoint["six"]


@pytest.mark.parametrize("name", [*SHELLS, "C32", "C128"])
def test_what_safetensors_lacks_is_not_exported(name: str, tmp_path: Path) -> None:
    target = _convert({"x": random_tensor((2, 4), _torch_dtype(name))}, tmp_path)
    with pytest.raises(ckptfmt.UnsupportedDtypeError, match=f"safetensors has no dtype for {name}"):
        ckptfmt.export(target, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "back.partial").exists()


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"), [("F4", [2, 3], 3), ("U8", [1] * 65, 1)], ids=["odd F4", "65-D"]
)
def test_what_could_not_be_opened_again_is_not_converted(
    dtype: str, shape: list[int], nbytes: int, tmp_path: Path
) -> None:
    source = write_safetensors(tmp_path / "a.safetensors", {"x": (dtype, shape, b"a" * nbytes)})
    with pytest.raises(ckptfmt.SourceError, match="'x'"):
        _convert(source, tmp_path)
    assert not (tmp_path / "x.ckpt").exists()
    assert not (tmp_path / "x.ckpt.partial").exists()


@pytest.mark.parametrize("name", NAMES, ids=lambda n: repr(n)[:20])
def test_any_name_is_a_tensor_name(name: str, tmp_path: Path) -> None:
    wanted = {name: torch.arange(5), "other": torch.zeros(3)}
    target = _convert(wanted, tmp_path)
    assert sorted(p.name for p in target.iterdir()) == [
        "SHA256SUMS", "ckptfmt.json", "part-00000.ckptfmt",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.names == (name, "other")
        assert torch.equal(checkpoint[name], wanted[name])
        # A text that is a name means that tensor, even if it could be a pattern.
        assert list(checkpoint.load(name)) == [name]


def test_all_awkward_names_at_once_and_there_and_back(tmp_path: Path) -> None:
    wanted = {name: torch.tensor([i]) for i, name in enumerate(NAMES) if name != "__metadata__"}
    save_file(wanted, tmp_path / "a.safetensors")
    target = _convert(tmp_path / "a.safetensors", tmp_path)
    ckptfmt.export(target, tmp_path / "back", shard_size=64)
    found = {}
    for file in (tmp_path / "back").glob("*.safetensors"):
        found.update(load_file(file))
    assert {n: int(t) for n, t in found.items()} == {n: int(t) for n, t in wanted.items()}
    assert ckptfmt.verify(target, against=tmp_path / "back").compared == len(wanted)


def test_a_name_that_a_safetensors_header_cannot_hold_is_not_exported(tmp_path: Path) -> None:
    target = _convert({"__metadata__": torch.ones(2)}, tmp_path)
    with pytest.raises(ckptfmt.SourceError, match="a tensor named '__metadata__'"):
        ckptfmt.export(target, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", IN_TORCH)
def test_numpy_gets_what_it_has(name: str, tmp_path: Path) -> None:
    row = DTYPES[name]
    tensor = random_tensor((3, 4), _torch_dtype(name))
    target = _convert({"x": tensor, "empty": random_tensor((0, 4), _torch_dtype(name))}, tmp_path)
    if row.numpy_name is None:
        with pytest.raises(ckptfmt.UnsupportedDtypeError, match=f"numpy has no dtype for {name}"):
            ckptfmt.load(target, framework="numpy")
        return
    for mmap in (False, True):
        found = ckptfmt.load(target, framework="numpy", mmap=mmap)
        assert found["x"].dtype == np.dtype(row.numpy_name)
        assert found["x"].shape == (3, 4)
        assert found["empty"].shape == (0, 4)
        assert found["x"].tobytes() == tensor.view(-1).view(torch.uint8).numpy().tobytes()
        assert found["x"].flags.writeable
        found["x"][...] = 0
    assert equal_bits(ckptfmt.load(target)["x"], tensor)


@pytest.mark.parametrize("alignment", ["4KiB", "64KiB", "2MiB"])
def test_every_tensor_starts_on_the_alignment(alignment: str, tmp_path: Path) -> None:
    wanted = {f"t{i}": random_tensor((i * 1000 + 1,), torch.uint8, i) for i in range(7)}
    target = _convert(wanted, tmp_path, alignment=alignment)
    unit = {"4KiB": 4096, "64KiB": 65536, "2MiB": 2 << 20}[alignment]
    with ckptfmt.open(target) as checkpoint:
        extents = [e for entry in checkpoint.index.tensors for e in entry.extents]
    assert len(extents) == 7
    assert all(e.offset % unit == 0 and e.offset > 0 for e in extents)
    found = ckptfmt.load(target)
    assert all(equal_bits(found[n], t) for n, t in wanted.items())
    assert all(t.data_ptr() % 4096 == 0 for t in found.values())
