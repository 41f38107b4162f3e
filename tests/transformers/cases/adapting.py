"""Adapters of PEFT: stored, put onto models, several of them; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

import ckptfmt
from ckptfmt.transformers import load_lora, load_model, save_lora, save_model
from tests.transformers.cases.refusing import raised
from tests.transformers.models import TOKENS, new


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of the next token."""
    return model(TOKENS).logits


def adapted(*targets: str, seed: int, layers: int = 2, **named: Any) -> Any:
    """The first model of all tests, with an adapter of random weights."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=4, target_modules=list(targets), init_lora_weights=False, task_type="CAUSAL_LM", **named
    )
    model = peft.get_peft_model(new("llama", num_hidden_layers=layers), config, "mine").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter))
    return model


def to_and_fro(folder: Path, form: str) -> None:
    """Logits equal those of the model that it was stored from; other adapters stay."""
    more = {"lora": {}, "dora": {"use_dora": True}, "norm": {"modules_to_save": ["norm"]}}[form]
    one, two = adapted("q_proj", "v_proj", seed=5, **more), adapted("k_proj", seed=6)
    for name, model in (("one", one), ("two", two)):
        save_lora(model, folder / f"{name}.lora", "mine")
    save_model(new("llama"), folder / "m.ckpt")
    base = load_model(folder / "m.ckpt")
    plain = logits(base)
    model = load_lora(base, "first", folder / "one.lora")
    assert isinstance(model, peft.PeftModelForCausalLM)
    assert not model.training
    assert torch.equal(logits(model), logits(one))
    assert not torch.equal(logits(model), plain)
    assert load_lora(model, "second", "two.lora", storage_path=folder) is model
    assert torch.equal(logits(model), logits(two))
    model.set_adapter("first")
    assert torch.equal(logits(model), logits(one))
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    save_lora(model, folder / "again.lora", "second")
    before, after = ckptfmt.load(folder / "two.lora"), ckptfmt.load(folder / "again.lora")
    assert set(before) == set(after)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def cast(folder: Path) -> None:
    """To what is asked for."""
    save_lora(adapted("q_proj", seed=5), folder / "a.lora", "mine")
    model = load_lora(new("llama", "bf16"), "a", folder / "a.lora", "cpu", torch_dtype="bf16")
    found = {p.dtype for n, p in model.named_parameters() if "lora" in n}
    assert found == {torch.bfloat16}


def refused(folder: Path) -> None:
    """Of another model, of a name that is taken, incomplete, nowhere."""
    save_lora(adapted("q_proj", seed=5), folder / "a.lora", "mine")
    model = load_lora(new("llama"), "a", folder / "a.lora")
    error = raised(ckptfmt.OptionError, load_lora, model, "a", folder / "a.lora")
    assert str(error) == "the model has an adapter 'a' already"
    raised(ckptfmt.NotFoundError, load_lora, model, "b", folder / "b.lora")
    error = raised(
        ckptfmt.LoadMismatchError, load_lora, new("llama", num_hidden_layers=1), "a",
        folder / "a.lora",
    )  # fmt: skip
    assert "2 not in the model: " in str(error), error
    assert "layers.1.self_attn.q_proj.lora_A" in str(error), error
    tensors = ckptfmt.load(folder / "a.lora")
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    ckptfmt.save_dict(tensors, folder / "part.lora", beside=[model.peft_config["a"]])
    error = raised(ckptfmt.LoadMismatchError, load_lora, model, "b", folder / "part.lora")
    assert "1 missing in the checkpoint: " in str(error), error
    assert list(model.peft_config) == ["a"]


def nothing_is_left(folder: Path) -> None:
    """Of an adapter that was refused: the model computes what it did, and takes the right one."""
    right, wrong = folder / "a.lora", folder / "wrong.lora"
    save_lora(adapted("q_proj", seed=5), right, "mine")
    tensors = ckptfmt.load(right)
    config = adapted("q_proj", seed=5).peft_config["mine"]
    other = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"
    first = next(iter(tensors))
    for state, says in (
        ({**tensors, other: tensors[first].clone()}, "1 not in the model: "),
        ({**tensors, first: torch.ones(3, 3)}, "size mismatch for "),
    ):
        ckptfmt.save_dict(state, wrong, beside=[config], force=True)
        base = new("llama")
        plain = logits(base)
        error = raised(ckptfmt.LoadMismatchError, load_lora, base, "a", wrong)
        assert says in str(error), error
        assert torch.equal(logits(base), plain)
        model = load_lora(base, "a", right)
        tuned = logits(model)
        assert not torch.equal(tuned, plain)
        raised(ckptfmt.LoadMismatchError, load_lora, model, "b", wrong)
        assert list(model.peft_config) == ["a"]
        assert torch.equal(logits(model), tuned)
    save_lora(adapted("gate_proj", seed=5), folder / "gate.lora", "mine")
    error = raised(ckptfmt.LoadMismatchError, load_lora, new("opt"), "a", folder / "gate.lora")
    assert "gate_proj" in str(error), error
    ckptfmt.save_dict(tensors, folder / "bare.lora")
    error = raised(ckptfmt.SourceError, load_lora, new("llama"), "a", folder / "bare.lora")
    assert "adapter_config.json" in str(error), error
