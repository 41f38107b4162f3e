"""``save_lora`` and ``save_model`` with the real peft and transformers, in a Python of theirs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.fleet_python import MISSING, PYTHON, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SETUP = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig
from transformers import LlamaForCausalLM
import ckptfmt
folder = Path(sys.argv[1])
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
)
tokens = torch.arange(10).view(1, 10)

def new(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()

def logits(model):
    with torch.no_grad():
        return model(tokens).logits
"""
LORA = """
import peft
torch.manual_seed(5)
lora = peft.LoraConfig(r=4, lora_alpha=9, target_modules=["q_proj", "v_proj"], use_dora=USE_DORA,
                       modules_to_save=["norm"], init_lora_weights=False)
model = peft.get_peft_model(new(1), lora).eval()
second = peft.LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)
model.add_adapter("second", second)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            parameter.add_(torch.randn_like(parameter))
for name in ("default", "second"):
    path = folder / f"{name}.lora"
    report = ckptfmt.save_lora(model, path, name)
    assert report.sidecars == ["adapter_config.json"], report.sidecars
    wanted = peft.get_peft_model_state_dict(model, adapter_name=name)
    tensors = ckptfmt.load(path)
    assert set(tensors) == set(wanted), set(tensors) ^ set(wanted)
    assert all(torch.equal(tensors[n], t) for n, t in wanted.items())
    assert ckptfmt.verify(path).ok
    stored = peft.PeftConfig.from_pretrained(path)
    assert stored.inference_mode
    assert not model.peft_config["default"].inference_mode
    other = peft.get_peft_model(new(1), stored).eval()  # the same model below, a fresh adapter
    model.set_adapter(name)
    assert not torch.equal(logits(other), logits(model))
    outcome = peft.set_peft_model_state_dict(other, tensors)
    assert not outcome.unexpected_keys, outcome
    assert torch.equal(logits(other), logits(model))
try:
    ckptfmt.save_lora(model, folder / "x", "third")
except ckptfmt.OptionError as error:
    assert str(error) == "no adapter 'third', there are: 'default', 'second'", error
else:
    raise AssertionError
try:
    ckptfmt.save_lora(new(1), folder / "x")
except ckptfmt.SourceError as error:
    assert "without adapters" in str(error), error
else:
    raise AssertionError
whole = ckptfmt.save_model(model, folder / "whole.ckpt")
assert "config.json" in whole.sidecars
assert set(ckptfmt.load(folder / "whole.ckpt")) == set(model.state_dict())
"""
INJECTED = """
import peft
lora = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
model = peft.inject_adapter_in_model(lora, new(1), "own").eval()
ckptfmt.save_lora(model, folder / "own.lora", "own")
stored = peft.PeftConfig.from_pretrained(folder / "own.lora")
other = peft.inject_adapter_in_model(stored, new(1), "own").eval()
peft.set_peft_model_state_dict(other, ckptfmt.load(folder / "own.lora"), "own")
assert torch.equal(logits(other), logits(model))
assert not torch.equal(logits(new(1)), logits(model))
"""
MODEL = """
model = new(1)
model.generation_config = GenerationConfig(max_new_tokens=7, do_sample=True, top_k=3)
report = ckptfmt.save_model(model, folder / "m.ckpt")
assert report.sidecars == ["config.json", "generation_config.json"], report.sidecars
stored = AutoConfig.from_pretrained(folder / "m.ckpt")
assert stored.architectures == ["LlamaForCausalLM"]
torch.manual_seed(2)
other = AutoModelForCausalLM.from_config(stored).eval()
assert not torch.equal(logits(other), logits(model))
with ckptfmt.open(folder / "m.ckpt") as checkpoint:
    checkpoint.load_into(other)
assert torch.equal(logits(other), logits(model))
assert other.lm_head.weight.data_ptr() == other.model.embed_tokens.weight.data_ptr()
assert GenerationConfig.from_pretrained(folder / "m.ckpt").top_k == 3
"""


@pytest.mark.parametrize(
    "code", [MODEL, LORA.replace("USE_DORA", "False"), LORA.replace("USE_DORA", "True"), INJECTED],
    ids=["model", "lora", "dora", "injected"],
)  # fmt: skip
def test_with_the_real_libraries(code: str, tmp_path: Path) -> None:
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    env = {
        **os.environ, "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }  # fmt: skip
    done = subprocess.run(
        [PYTHON, "-c", SETUP + code, tmp_path], env=env, cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
