"""Models on simulated NPUs, or GPUs: where their tensors are, and that they are the right ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import ckptfmt
from ckptfmt.transformers import load_lora, load_model, save_lora, save_model
from tests.transformers.models import auto_class, new, same_weights, ties

if os.environ.get("CASES_KIND") != "cuda":
    import torch_npu  # noqa: F401 - so that torch knows its devices

#: Of the tiny models.
HALVES = {
    "model.embed_tokens": "npu:0", "model.layers.0": "npu:0", "model.rotary_emb": "npu:0",
    "model.layers.1": "npu:1", "model.norm": "npu:1", "lm_head": "npu:1",
}  # fmt: skip


def devices(model: Any) -> set[str]:
    """Of all parameters and buffers, those computed and not read among them."""
    tensors = (*model.parameters(), *model.buffers())
    return {str(tensor.device) for tensor in tensors}


def to_one(folder: Path, kind: str, device_map: Any) -> None:
    """All of it is there, and equal once it has come back."""
    model = new(kind, "bf16")
    save_model(model, folder / "m.ckpt")
    here = load_model(folder / "m.ckpt", "cpu", hf_model_class=auto_class(kind))
    there = load_model(folder / "m.ckpt", device_map, hf_model_class=auto_class(kind))
    assert devices(here) == {"cpu"}
    kind_of_device = os.environ.get("CASES_KIND", "npu")
    assert devices(there) == {f"{kind_of_device}:{1 if str(device_map).endswith('1') else 0}"}
    assert str(there.device) in devices(there)
    assert ties(there) == ties(here)
    same_weights(there, here)
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert set(stats.devices) == devices(there)


def to_two(folder: Path) -> None:
    """By a map: hooks bring along what the next module needs."""
    save_model(new("llama"), folder / "m.ckpt")
    here = load_model(folder / "m.ckpt", "cpu")
    there = load_model(folder / "m.ckpt", HALVES)
    for name, tensor in (*there.named_parameters(), *there.named_buffers()):
        (wanted,) = {device for above, device in HALVES.items() if name.startswith(above + ".")}
        assert str(tensor.device) == wanted, name
    same_weights(there, here)
    assert there.hf_device_map == HALVES
    assert there.model.layers[1]._hf_hook.execution_device == "npu:1"


def spread(folder: Path) -> None:
    """As accelerate cuts it: no layer is on two devices."""
    save_model(new("llama", num_hidden_layers=8), folder / "m.ckpt")
    here = load_model(folder / "m.ckpt", "cpu")
    there = load_model(folder / "m.ckpt")
    assert devices(there) == {"npu:0", "npu:1"}
    for layer in there.model.layers:
        assert len({str(parameter.device) for parameter in layer.parameters()}) == 1
    same_weights(there, here)


def adapters(folder: Path) -> None:
    """An adapter goes where its modules are."""
    import peft

    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    stored = peft.get_peft_model(new("llama"), config, "own")
    save_lora(stored, folder / "own.lora", "own")
    save_model(new("llama"), folder / "m.ckpt")
    model = load_lora(load_model(folder / "m.ckpt", HALVES), "own", folder / "own.lora")
    for number, device in ((0, "npu:0"), (1, "npu:1")):
        layer = model.base_model.model.model.layers[number].self_attn.q_proj
        assert str(layer.lora_A["own"].weight.device) == device
        wanted = stored.base_model.model.model.layers[number].self_attn.q_proj
        assert torch.equal(layer.lora_A["own"].weight.cpu(), wanted.lora_A["own"].weight)
