"""``--dtype`` and ``load(dtype=…)``: what torch's ``.to()`` gives, bit for bit, for floats only."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptfmt
from tests.helpers.models import equal_bits, random_tensor, write_folder

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OTHERS = [
    torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: Where a cast rounds, overflows or is at its limit.
EDGES = [
    0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 65504.0, 65519.9, 65520.0, 1e6,
    6.1e-5, 5.96e-8, 2.98e-8, 2.9e-8, 1e-45, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-11,
    1 + 2**-24, 3.39e38, 3.4028235e38, 3.4e38, 1e300, 1e-300,
]  # fmt: skip


def _model() -> dict[str, torch.Tensor]:
    """Random bits and edges of every floating dtype, and dtypes that no cast touches."""
    edges = torch.tensor(EDGES, dtype=torch.float64)
    model = {f"edges.{dtype}": edges.to(dtype) for dtype in FLOATS}
    model |= {f"random.{dtype}": random_tensor((300, 1001), dtype) for dtype in FLOATS}
    model |= {f"scalar.{dtype}": torch.tensor(1.001, dtype=dtype) for dtype in FLOATS}
    model |= {f"empty.{dtype}": torch.empty(0, 4, dtype=dtype) for dtype in FLOATS}
    return model | {f"other.{dtype}": random_tensor((9, 11), dtype) for dtype in OTHERS}


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.dtype in FLOATS else tensor


@pytest.fixture(scope="module")
def floats() -> dict[str, torch.Tensor]:
    """The model of this file."""
    return _model()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, floats: dict[str, torch.Tensor]) -> Path:
    """It, converted as it is; partitions smaller than some of its tensors."""
    target = tmp_path_factory.mktemp("cast") / "x.ckpt"
    ckptfmt.convert(floats, target, partition_size="1100KiB")
    return target


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not equal_bits(found[name], wanted[name])]
    assert different == []


@pytest.mark.parametrize("cast", ["keep", *CASTS])
def test_convert_casts_as_torch_does(
    cast: str, tmp_path: Path, floats: dict[str, torch.Tensor]
) -> None:
    report = ckptfmt.convert(
        floats, tmp_path / "x.ckpt", dtype=cast, partition_size="1100KiB", alignment="8KiB"
    )
    wanted = {name: _cast(t, CASTS.get(cast)) for name, t in floats.items()}
    _same(ckptfmt.load(tmp_path / "x.ckpt"), wanted)
    assert report.cast == sum(wanted[name].dtype != t.dtype for name, t in floats.items())
    assert report.nbytes == sum(t.numel() * t.element_size() for t in wanted.values())
    assert ckptfmt.verify(tmp_path / "x.ckpt").problems == []


@pytest.mark.parametrize("cast", ["keep", *CASTS])
def test_load_casts_as_torch_does(
    cast: str, stored: Path, floats: dict[str, torch.Tensor]
) -> None:
    wanted = {name: _cast(t, CASTS.get(cast)) for name, t in floats.items()}
    _same(ckptfmt.load(stored, dtype=cast), wanted)


@pytest.mark.parametrize("cast", CASTS)
def test_a_torch_dtype_means_the_same_as_its_name(cast: str, stored: Path, tmp_path: Path) -> None:
    _same(ckptfmt.load(stored, dtype=CASTS[cast]), ckptfmt.load(stored, dtype=cast))
    ckptfmt.convert(stored, tmp_path / "a", dtype=CASTS[cast])
    ckptfmt.convert(stored, tmp_path / "b", dtype=cast)
    a, b = tmp_path / "a" / "ckptfmt.json", tmp_path / "b" / "ckptfmt.json"
    assert a.read_bytes() == b.read_bytes()


def test_a_cast_of_some_names(stored: Path, floats: dict[str, torch.Tensor]) -> None:
    found = ckptfmt.load(stored, names=["edges.*", "other.torch.int8"], dtype="bf16")
    wanted = {
        name: _cast(t, torch.bfloat16)
        for name, t in floats.items()
        if name.startswith("edges") or name == "other.torch.int8"
    }
    _same(found, wanted)


def test_a_file_and_a_bin_are_cast_alike(tmp_path: Path, floats: dict[str, torch.Tensor]) -> None:
    write_folder(tmp_path / "st", floats, shards=2)
    torch.save(floats, tmp_path / "m.bin")
    wanted = {name: _cast(t, torch.float16) for name, t in floats.items()}
    for source, target in ((tmp_path / "st", "a"), (tmp_path / "m.bin", "b")):
        ckptfmt.convert(source, tmp_path / target, dtype="fp16")
        _same(ckptfmt.load(tmp_path / target), wanted)
        assert ckptfmt.verify(tmp_path / target, against=source).problems == []


def test_numpy_is_cast_where_it_can_be(stored: Path, floats: dict[str, torch.Tensor]) -> None:
    found = ckptfmt.load(stored, names="*float64", dtype="fp32", framework="numpy")
    for name, array in found.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, floats[name].float().numpy(), equal_nan=True)
    with pytest.raises(ckptfmt.UnsupportedDtypeError, match="numpy has no dtype for BF16"):
        ckptfmt.load(stored, names="*float64", dtype="bf16", framework="numpy")


def test_cast_tensors_own_their_memory_and_keep_their_ties(tmp_path: Path) -> None:
    w = torch.randn(1000)
    ckptfmt.convert({"a": w, "b": w, "c": torch.randn(3)}, tmp_path / "x.ckpt")
    found = ckptfmt.load(tmp_path / "x.ckpt", dtype="bf16")
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert found["a"].untyped_storage().nbytes() == 2000
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.verified_nbytes == 4000 + 12


@pytest.mark.parametrize("value", ["int8", "fp8", "", "f16", torch.int32, 16])
def test_other_casts_are_refused(value: object, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ckptfmt.UnsupportedDtypeError, match="cannot cast to") as caught:
        ckptfmt.load(stored, dtype=value)
    assert caught.value.hint == "allowed: keep, bf16, fp16, fp32"
    with pytest.raises(ckptfmt.UnsupportedDtypeError, match="cannot cast to"):
        ckptfmt.convert(stored, tmp_path / "y.ckpt", dtype=value)
    assert not (tmp_path / "y.ckpt").exists()


# ---- include and exclude ----

NAMES = ["model.layers.0.attn.weight", "model.layers.1.attn.bias", "model.layers.10.mlp.weight",
         "lm_head.weight", "Model.norm"]  # fmt: skip
FILTERS = [
    (["*"], [], NAMES),
    (["*.weight"], [], [NAMES[0], NAMES[2], NAMES[3]]),
    (["model.layers.1.*"], [], [NAMES[1]]),
    (["model.layers.1*"], [], [NAMES[1], NAMES[2]]),
    (["model.layers.[01].*"], [], [NAMES[0], NAMES[1]]),
    (["lm_head.weight", "*.bias"], [], [NAMES[1], NAMES[3]]),
    ([], ["model.*"], [NAMES[3], NAMES[4]]),
    ([], ["*.bias", "lm_head*"], [NAMES[0], NAMES[2], NAMES[4]]),
    (["*.weight"], ["lm_head.*"], [NAMES[0], NAMES[2]]),
    (["model.layers.?.*"], ["*"], None),
    (["weight"], [], None),
]


@pytest.mark.parametrize(("include", "exclude", "left"), FILTERS)
def test_filters_take_and_leave_out_names(
    include: list[str], exclude: list[str], left: list[str] | None, tmp_path: Path
) -> None:
    model = {name: torch.full((3,), float(i)) for i, name in enumerate(NAMES)}
    target = tmp_path / "x.ckpt"
    if left is None:
        with pytest.raises(ckptfmt.SourceError, match="the filters leave no tensor"):
            ckptfmt.convert(model, target, include=include, exclude=exclude)
        assert not target.exists()
        return
    report = ckptfmt.convert(model, target, include=include, exclude=exclude)
    assert sorted(report.dropped) == sorted(set(NAMES) - set(left))
    _same(ckptfmt.load(target), {name: model[name] for name in left})


def test_the_filters_and_the_cast_are_remembered_for_comparison(tmp_path: Path) -> None:
    model = {name: torch.randn(40, 5) for name in NAMES}
    source = write_folder(tmp_path / "m", model, shards=2)
    options = {"include": ["*.weight"], "exclude": ["lm*"], "dtype": "bf16"}
    ckptfmt.convert(source, tmp_path / "x.ckpt", **options)
    assert ckptfmt.verify(tmp_path / "x.ckpt", against=source).compared == 2
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        stored = checkpoint.provenance["options"]
    assert {key: stored[key] for key in options} == options


@pytest.mark.parametrize(("have", "cast"), list(itertools.product(FLOATS, CASTS)))
def test_every_pair_over_partition_borders(have: torch.dtype, cast: str, tmp_path: Path) -> None:
    """One tensor over several partitions: the pieces of source and target differ in size."""
    wanted = random_tensor((700_003,), have)
    ckptfmt.convert({"x": wanted}, tmp_path / "a", partition_size="1100KiB")
    ckptfmt.convert(tmp_path / "a", tmp_path / "b", partition_size="2200KiB", dtype=cast)
    assert equal_bits(ckptfmt.load(tmp_path / "b")["x"], wanted.to(CASTS[cast]))
