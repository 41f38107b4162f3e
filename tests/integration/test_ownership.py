"""Tensors own their memory: private, writable, saved at its size, given back when they die."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

import ckptfmt
from tests.helpers.handmade import snapshot
from tests.helpers.models import bits, equal_bits, random_tensor

Tensors = dict[str, torch.Tensor]
MIB = 1 << 20
WAYS = {"read": {}, "mapped": {"mmap": True}, "cast": {"dtype": "bf16"}}


def _resident() -> int:
    """Bytes of memory this process has, as the kernel counts them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.fixture(scope="module")
def large_model() -> Tensors:
    """Eight tensors of 8 MiB."""
    return {f"t{i}": random_tensor((2 * MIB,), torch.float32, i) for i in range(8)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, large_model: Tensors) -> Path:
    """They, stored."""
    target = tmp_path_factory.mktemp("large") / "x.ckpt"
    ckptfmt.convert(large_model, target)
    return target


@pytest.mark.parametrize("way", WAYS)
def test_each_tensor_is_a_storage_of_its_own(way: str, large: Path) -> None:
    found = ckptfmt.load(large, **WAYS[way])
    for tensor in found.values():
        assert tensor.storage_offset() == 0
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    spans = sorted((t.data_ptr(), t.data_ptr() + len(bits(t))) for t in found.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_tensors_are_writable_and_private(
    way: str, framework: str, tmp_path: Path, checkpoint: Path
) -> None:
    options = {**WAYS[way], "framework": framework, "names": ["layers.0.attn.*", "position_ids"]}
    if way == "cast":
        options["dtype"] = "fp16"
    before = snapshot(checkpoint)
    wanted = {n: t.clone() if framework == "torch" else t.copy()
              for n, t in ckptfmt.load(checkpoint, **options).items()}  # fmt: skip
    first, second = ckptfmt.load(checkpoint, **options), ckptfmt.load(checkpoint, **options)
    for tensor in first.values():
        tensor[...] = 0
    for name, tensor in second.items():
        assert memoryview(_bytes(tensor)) == memoryview(_bytes(wanted[name]))
    assert snapshot(checkpoint) == before
    assert ckptfmt.verify(checkpoint).problems == []


def _bytes(tensor: object) -> bytes:
    return bits(tensor) if isinstance(tensor, torch.Tensor) else tensor.tobytes()  # type: ignore[attr-defined]


def test_padding_around_a_tensor_is_not_part_of_it(tmp_path: Path) -> None:
    ckptfmt.convert({"a": torch.ones(3), "b": torch.ones(5)}, tmp_path / "x.ckpt")
    for options in ({}, {"mmap": True}):
        found = ckptfmt.load(tmp_path / "x.ckpt", **options)
        assert found["a"].untyped_storage().nbytes() == 12
        found["a"].fill_(9)
        assert found["b"].tolist() == [1] * 5


@pytest.mark.parametrize("way", ["read", "mapped"])
def test_freeing_one_tensor_gives_its_memory_back(way: str, large: Path) -> None:
    """Engines replace parameters one by one: what was replaced must not be held by the rest."""
    found = ckptfmt.load(large, **WAYS[way])
    for name in found:
        found[name][::1024] = 1  # a mapped tensor has memory of its own once it was written
    gc.collect()
    full = _resident()
    for i in range(6):
        del found[f"t{i}"]
        gc.collect()
        assert full - _resident() > (i + 1) * 8 * MIB - 3 * MIB
    assert all(bool((found[name][::1024] == 1).all()) for name in ("t6", "t7"))


def test_a_view_keeps_the_memory_alive(large: Path, large_model: Tensors) -> None:
    view = ckptfmt.load(large)["t3"][5:10]
    gc.collect()
    assert equal_bits(view, large_model["t3"][5:10])
    array = ckptfmt.load(large, framework="numpy")["t3"][5:10]
    gc.collect()
    assert array.tobytes() == bits(view)
    raw = ckptfmt.open(large).read("t3")[20:40]
    gc.collect()
    assert bytes(raw) == bits(view)


# ---- saving what was loaded ----


@pytest.mark.parametrize("way", ["read", "mapped"])
def test_torch_save_writes_the_tensor_and_no_more(way: str, tmp_path: Path, model: Tensors) -> None:
    w = torch.randn(1000)
    ckptfmt.convert({**model, "a": w, "b": w}, tmp_path / "x.ckpt")
    found = ckptfmt.load(tmp_path / "x.ckpt", **WAYS[way])
    torch.save(found["layers.0.attn.bias"], tmp_path / "one.pt")
    assert (tmp_path / "one.pt").stat().st_size < 3000
    torch.save({"a": found["a"], "b": found["b"]}, tmp_path / "two.pt")
    assert 4000 < (tmp_path / "two.pt").stat().st_size < 8000
    again = torch.load(tmp_path / "two.pt", weights_only=True)
    assert again["a"].data_ptr() == again["b"].data_ptr()
    torch.save(found, tmp_path / "all.pt")
    again = torch.load(tmp_path / "all.pt", weights_only=True)
    assert all(equal_bits(again[n], t) for n, t in found.items())


@pytest.mark.parametrize("way", ["read", "mapped"])
def test_safetensors_saves_what_was_loaded(
    way: str, tmp_path: Path, checkpoint: Path, model: Tensors
) -> None:
    found = ckptfmt.load(checkpoint, **WAYS[way])
    save_file(found, tmp_path / "a.safetensors")
    again = load_file(tmp_path / "a.safetensors")
    assert all(equal_bits(again[n], t) for n, t in model.items())
    nbytes = sum(len(bits(t)) for t in model.values())
    assert nbytes < (tmp_path / "a.safetensors").stat().st_size < nbytes + 2000


@pytest.mark.parametrize("way", ["read", "mapped"])
def test_save_model_sees_the_ties(way: str, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(50, 80), torch.nn.Linear(80, 50, bias=False))
    module[1].weight = module[0].weight
    ckptfmt.convert(module, tmp_path / "x.ckpt")
    found = ckptfmt.load(tmp_path / "x.ckpt", **WAYS[way])
    module.load_state_dict(found, assign=True)
    save_model(module, str(tmp_path / "m.safetensors"))
    assert (tmp_path / "m.safetensors").stat().st_size < 16_000 + 1000
    assert len(load_file(tmp_path / "m.safetensors")) == 1


def test_a_module_takes_the_tensors_over(large: Path, large_model: Tensors) -> None:
    """``assign=True``: the module's parameters are the loaded memory, not copies of it."""
    module = torch.nn.Module()
    for name in large_model:
        module.register_parameter(name, torch.nn.Parameter(torch.empty(0)))
    module.to(device="meta")
    for name in large_model:
        setattr(module, name, torch.nn.Parameter(torch.empty(2 * MIB, device="meta")))
    found = ckptfmt.load(large)
    addresses = {n: t.data_ptr() for n, t in found.items()}
    module.load_state_dict(found, assign=True)
    assert {n: p.data_ptr() for n, p in module.named_parameters()} == addresses
    loss = (module.t0 * 0).nan_to_num().sum() + module.t1.detach().numel()
    loss.backward()
    assert module.t0.grad is not None


def test_what_was_mapped_outlives_a_checkpoint_that_is_removed(tmp_path: Path) -> None:
    wanted = {f"{i}": random_tensor((50_000,), torch.uint8, i) for i in range(5)}
    ckptfmt.convert(wanted, tmp_path / "x.ckpt")
    mapped = ckptfmt.load(tmp_path / "x.ckpt", mmap=True)
    checkpoint = ckptfmt.open(tmp_path / "x.ckpt")
    ckptfmt.convert({"other": torch.ones(3)}, tmp_path / "x.ckpt", force=True)
    assert all(equal_bits(mapped[n], t) for n, t in wanted.items())
    assert all(equal_bits(checkpoint[n], t) for n, t in wanted.items())
    checkpoint.close()
    assert list(ckptfmt.load(tmp_path / "x.ckpt")) == ["other"]


def test_many_small_tensors_do_not_exhaust_mappings(tmp_path: Path) -> None:
    """A process may have some 65,000 mappings; one for each tensor would be too many."""
    model = {f"t{i}": torch.full((2,), float(i)) for i in range(3000)}
    ckptfmt.convert(model, tmp_path / "x.ckpt")
    for options in ({}, {"mmap": True}):
        before = len(Path("/proc/self/maps").read_text().splitlines())
        found = ckptfmt.load(tmp_path / "x.ckpt", **options)
        assert len(Path("/proc/self/maps").read_text().splitlines()) - before < 100
        assert float(found["t2999"][1]) == 2999
        for name in list(found)[::2]:
            del found[name]
        gc.collect()
        assert len(Path("/proc/self/maps").read_text().splitlines()) - before < 100
