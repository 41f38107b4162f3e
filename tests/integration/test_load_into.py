"""``load_into``: tensors that exist are filled, all or, if anything does not fit, none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ckptfmt
from ckptfmt import LoadMismatchError
from tests.helpers.engines import open_direct
from tests.helpers.models import bits, equal_bits, random_tensor, small_model
from tests.helpers.refusals import refused

Tensors = dict[str, torch.Tensor]


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of this shape with gaps between its elements."""
    return torch.zeros((*tensor.shape, 3), dtype=tensor.dtype)[..., 1]


def _odd_address(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous memory that starts on no sector."""
    size = tensor.element_size()
    raw = torch.zeros(tensor.numel() + 8, dtype=tensor.dtype)
    skip = next(i for i in range(8) if (raw.data_ptr() + i * size) % 4096)
    return raw[skip : skip + tensor.numel()].view(tensor.shape)


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    turned = torch.zeros(tensor.shape[::-1], dtype=tensor.dtype)
    return turned.permute(tuple(range(tensor.dim()))[::-1])


MEMORY = {"blank": _blank, "spread": _spread, "odd address": _odd_address, "turned": _turned}


@pytest.mark.parametrize("reads", ["auto", "direct", "buffered"])
@pytest.mark.parametrize("memory", MEMORY)
def test_any_memory_is_filled(
    memory: str, reads: Any, checkpoint: Path, model: Tensors
) -> None:
    target = {name: MEMORY[memory](t) for name, t in model.items()}
    before = {name: (t.data_ptr(), t.stride()) for name, t in target.items()}
    with ckptfmt.open(checkpoint, options=ckptfmt.LoadOptions(reads=reads)) as opened:
        opened.load_into(target)
        stats = opened.load_stats()
    assert all(equal_bits(target[name], t) for name, t in model.items())
    assert before == {name: (t.data_ptr(), t.stride()) for name, t in target.items()}
    assert stats is not None
    assert stats.nbytes == stats.verified_nbytes == sum(len(bits(t)) for t in model.values())
    assert stats.read_nbytes >= stats.nbytes


@pytest.mark.parametrize("io", ["auto", "pread"])
def test_memory_on_no_sector_is_read_directly_and_by_way_of_slots(io: Any, tmp_path: Path) -> None:
    wanted = {
        "large": random_tensor((5 << 20,), torch.uint8, 1),
        "even": random_tensor((300_000,), torch.uint8, 2),
        "small": random_tensor((60_000,), torch.uint8, 3),
    }
    ckptfmt.convert(wanted, tmp_path / "x.ckpt")
    os.close(open_direct(tmp_path / "x.ckpt/part-00000.ckptfmt"))  # or skip
    target = {name: _odd_address(t) for name, t in wanted.items()}
    arena = torch.zeros(310_000, dtype=torch.uint8)
    start = -arena.data_ptr() % 4096
    target["even"] = arena[start : start + 300_000]
    options = ckptfmt.LoadOptions(reads="direct", io=io)
    with ckptfmt.open(tmp_path / "x.ckpt", options=options) as opened:
        opened.load_into(target)
        stats = opened.load_stats()
    assert all(equal_bits(target[name], t) for name, t in wanted.items())
    assert stats is not None
    (file,) = stats.files.values()
    assert file.direct_nbytes == (5 << 20) + 300_000
    assert file.buffered_nbytes == 60_000
    assert "1 are small, for memory on no sector, and go through the cache" in file.reason
    assert "2 are copied to where they stay, which starts on no sector" in file.reason
    assert 0 < stats.peak_pool_nbytes <= 9 * stats.threads * (5 << 20)


def test_memory_beside_the_target_is_not_touched(tmp_path: Path) -> None:
    """Direct reads are rounded up to sectors: never past the end of what is to be filled."""
    wanted = {f"{i}": random_tensor((5000 + i,), torch.uint8, i) for i in range(9)}
    ckptfmt.convert(wanted, tmp_path / "x.ckpt")
    for reads in ("direct", "buffered"):
        arena = torch.full((9 * 12288 + 4096,), 0x55, dtype=torch.uint8)
        start = -arena.data_ptr() % 4096
        target, used = {}, torch.zeros_like(arena, dtype=torch.bool)
        for i, (name, tensor) in enumerate(wanted.items()):
            at = start + i * 12288
            target[name] = arena[at : at + tensor.numel()]
            used[at : at + tensor.numel()] = True
        options = ckptfmt.LoadOptions(reads=reads)  # type: ignore[arg-type]
        with ckptfmt.open(tmp_path / "x.ckpt", options=options) as opened:
            opened.load_into(target)
        assert all(equal_bits(target[name], t) for name, t in wanted.items())
        assert bool((arena[~used] == 0x55).all())


def test_a_module_with_buffers(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(300, 500), torch.nn.BatchNorm1d(500))

    stored, module = make(), make()
    stored[1].running_mean.uniform_()
    ckptfmt.convert(stored, tmp_path / "x.ckpt")
    parameters = {id(p) for p in module.parameters()}
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        opened.load_into(module)
    for name, tensor in stored.state_dict().items():
        assert equal_bits(module.state_dict()[name], tensor)
    assert {id(p) for p in module.parameters()} == parameters
    assert all(p.requires_grad for p in module.parameters())
    module(torch.randn(4, 300)).sum().backward()


def test_arrays(tmp_path: Path) -> None:
    wanted = {"a": torch.randn(40, 50), "b": torch.arange(7), "c": torch.tensor(3.0)}
    ckptfmt.convert(wanted, tmp_path / "x.ckpt")
    target = {
        "a": np.zeros((50, 40), np.float32).T, "b": np.zeros(7, np.int64),
        "c": np.zeros((), np.float32),
    }  # fmt: skip
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        opened.load_into(target)
        assert all(np.array_equal(target[name], t.numpy()) for name, t in wanted.items())
        mixed = {"a": np.zeros((50, 40), np.float32).T, "b": torch.zeros(14).long()[::2],
                 "c": torch.zeros(())}  # fmt: skip
        opened.load_into(mixed)
    assert all(np.array_equal(np.asarray(mixed[name]), t.numpy()) for name, t in wanted.items())


# ---- what does not fit ----


def test_everything_that_differs_is_listed_and_nothing_is_changed(
    checkpoint: Path, model: Tensors
) -> None:
    target = {name: _blank(t) for name, t in model.items()}
    target["embed.weight"] = torch.zeros(1000, 301, dtype=torch.bfloat16)
    target["layers.0.attn.weight"] = torch.zeros(512, 1027, dtype=torch.float64)
    target["extra.one"], target["extra.two"] = torch.zeros(2), torch.zeros(2)
    del target["position_ids"], target["layers.1.mask"]
    with ckptfmt.open(checkpoint) as opened:
        error = refused(LoadMismatchError, "2 different", lambda: opened.load_into(target))
        text = str(error)
        for part in (
            "2 different: ",
            "embed.weight: BF16 [1000, 300] here, BF16 [1000, 301] to fill",
            "layers.0.attn.weight: F32 [512, 1027] here, F64 [512, 1027] to fill",
            "2 missing in the checkpoint: extra.one, extra.two",
            "2 not among the tensors to fill: ",
        ):
            assert part in text
        assert all(not bits(t).strip(b"\0") for t in target.values())
        # Without strict the names are no matter, the values are.
        error = refused(
            LoadMismatchError, "2 different", lambda: opened.load_into(target, strict=False)
        )
        assert "missing" not in str(error)
        assert all(not bits(t).strip(b"\0") for t in target.values())
        del target["embed.weight"], target["layers.0.attn.weight"]
        error = refused(LoadMismatchError, "missing", lambda: opened.load_into(target), "strict=F")
        opened.load_into(target, strict=False)
    assert equal_bits(target["layers.0.attn.bias"], model["layers.0.attn.bias"])
    assert not target["extra.one"].any()


UNFILLABLE = {
    "meta": (lambda: torch.zeros(4, device="meta"), "x: on the meta device.*to_empty"),
    "expanded": (lambda: torch.zeros(1).expand(4), "x: expanded"),
    "sparse": (lambda: torch.zeros(4).to_sparse(), "x: torch.sparse_coo"),
    "a number": (lambda: 3, "x: a int, expected a tensor"),
    "nothing": (lambda: None, "x: a NoneType, expected a tensor"),
    "read-only": (lambda: np.frombuffer(bytes(16), np.float32), "x: a read-only array"),
}


@pytest.mark.parametrize("what", UNFILLABLE)
def test_what_can_hold_no_values_is_refused_first(what: str, tmp_path: Path) -> None:
    make, message = UNFILLABLE[what]
    ckptfmt.convert({"w": torch.ones(4), "x": torch.ones(4)}, tmp_path / "x.ckpt")
    target = {"w": torch.zeros(4), "x": make()}
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        for strict in (True, False):
            refused(LoadMismatchError, message, lambda s=strict: opened.load_into(target, strict=s))
            assert not target["w"].any()
        other = {"w": target["w"], "not stored": target["x"]}
        opened.load_into(other, strict=False)
    assert target["w"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("target", [3, None, [torch.ones(1)], "w"])
def test_what_is_no_module_or_dict_is_refused(target: object, checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        refused(LoadMismatchError, "cannot load into a", lambda: opened.load_into(target))


def test_lazily_conjugated_targets_show_the_stored_values(tmp_path: Path) -> None:
    wanted = torch.randn(50, dtype=torch.complex64)
    ckptfmt.convert({"x": wanted}, tmp_path / "x.ckpt")
    target = torch.zeros(50, dtype=torch.complex64).conj()
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        opened.load_into({"x": target})
    assert torch.equal(target, wanted)


# ---- ties ----


def test_tied_in_both(tmp_path: Path) -> None:
    w = torch.randn(30, 40)
    ckptfmt.convert({"a": w, "b": w}, tmp_path / "x.ckpt")
    tied = torch.zeros(30, 40)
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        opened.load_into({"a": tied, "b": tied})
        assert torch.equal(tied, w)
        apart = {"a": torch.zeros(30, 40), "b": torch.zeros(30, 40)}
        opened.load_into(apart)
        assert torch.equal(apart["a"], w)
        assert torch.equal(apart["b"], w)
        apart = {"a": torch.zeros(30, 40), "b": torch.zeros(40, 30).t()}
        opened.load_into(apart)
        assert torch.equal(apart["b"], w)


def test_tied_in_the_target_only(tmp_path: Path) -> None:
    w = torch.randn(30, 40)
    ckptfmt.convert({"a": w, "b": w.clone()}, tmp_path / "same.ckpt")
    ckptfmt.convert({"a": w, "b": w + 1}, tmp_path / "apart.ckpt")
    ckptfmt.convert({"a": w}, tmp_path / "one.ckpt")
    tied = torch.zeros(30, 40)
    target = {"a": tied, "b": tied}
    with ckptfmt.open(tmp_path / "apart.ckpt") as opened:
        refused(LoadMismatchError, "a and b share memory", lambda: opened.load_into(target))
        assert not tied.any()
    with ckptfmt.open(tmp_path / "same.ckpt") as opened:
        opened.load_into(target)
        assert torch.equal(tied, w)
    tied.zero_()
    with ckptfmt.open(tmp_path / "one.ckpt") as opened:  # safetensors keeps one of the names
        opened.load_into(target)
    assert torch.equal(tied, w)


def test_a_module_with_tied_weights(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        module = torch.nn.Sequential(
            torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False)
        )
        module[1].weight = module[0].weight
        return module

    stored, module = make(), make()
    ckptfmt.convert(stored, tmp_path / "x.ckpt")
    with ckptfmt.open(tmp_path / "x.ckpt") as opened:
        opened.load_into(module)
    assert torch.equal(module[1].weight, stored[0].weight)
    assert module[1].weight is module[0].weight


def test_progress_and_unverified(checkpoint: Path) -> None:
    target = {name: _blank(t) for name, t in small_model().items()}
    calls: list[tuple[int, int]] = []
    with ckptfmt.open(checkpoint) as opened:
        opened.load_into(target, verify=False, progress=lambda d, t: calls.append((d, t)))
        stats = opened.load_stats()
    assert calls[-1][0] == calls[-1][1] > 0
    assert stats is not None
    assert stats.verified_nbytes == 0
