"""Tiny models with random weights, wide enough that no two tokens are about equally likely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from ckptfmt.transformers import library

#: What this version calls the dtype.
DTYPE = library.dtype_keyword()
#: Spread of the weights.
WIDE = 0.3
_SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": WIDE,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
_EXPERTS = {"num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2}

#: By kind: the class, the configuration's, its values.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}),
    "opt": ("OPTForCausalLM", "OPTConfig", {
        "vocab_size": 64, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
        "init_std": WIDE,
    }),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig",
                {**_GROUPED, **_EXPERTS, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {
        **_GROUPED, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }),
    "bert": ("BertModel", "BertConfig", {**_SIZES, "max_position_embeddings": 64}),
    "bart": ("BartForConditionalGeneration", "BartConfig", {
        "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "max_position_embeddings": 64, "init_std": WIDE,
    }),
    "t5": ("T5ForConditionalGeneration", "T5Config", {
        "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, "initializer_factor": 3.0,
    }),
}  # fmt: skip
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = torch.tensor([[5, 9, 17, 33, 3, 41]])


def new(kind: str, dtype: str = "fp32", seed: int = 1, **values: Any) -> Any:
    """A model of random weights."""
    class_name, config_name, defaults = KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**defaults | values)
    model = getattr(transformers, class_name)(config).eval().to(DTYPES[dtype])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # not ones, not zeros: they count, too
                parameter.add_(torch.randn_like(parameter) * WIDE)
    return model


def stored(folder: Path, model: Any) -> Path:
    """A folder of safetensors, as the library writes it."""
    model.save_pretrained(folder / "source")
    return folder / "source"


def auto_class(kind: str) -> str:
    """What chooses the class."""
    return {"bert": "AutoModel", "t5": "AutoModelForSeq2SeqLM"}.get(kind, "AutoModelForCausalLM")


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    """What a model answers: greedy tokens, or embeddings if it is an encoder."""
    tokens = TOKENS.to(model.device)
    if not model.can_generate():
        return model(tokens).last_hidden_state
    return model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, min_new_tokens=12,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip


def same_weights(one: Any, other: Any) -> None:
    """Every parameter and buffer is the same, to the last bit, and of one dtype."""
    ours, theirs = _tensors(one), _tensors(other)
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    for name, tensor in theirs.items():
        found = ours[name]
        assert found.dtype == tensor.dtype, (name, found.dtype, tensor.dtype)
        assert torch.equal(found.cpu(), tensor), name


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Those of the state, and buffers that are in none."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def ties(model: Any) -> list[list[str]]:
    """Names of parameters that are one object."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return sorted(names for names in found.values() if len(names) > 1)
