"""Tiny random models, as transformers saves them, with a tokenizer; run by the Python of vLLM.

    python -m tests.vllm.models '[[FOLDER, KIND, DTYPE, SEED], …]'

Weights are wide, so that which token comes next is no close call.
"""

from __future__ import annotations

import json
import sys
from typing import Any

WORDS = 320
SHAPE: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
OPT: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 128, "ffn_dim": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "init_std": 0.3,
}  # fmt: skip
#: Of the size that tensors of real models have: many blocks of checksums.
LARGER: dict[str, Any] = {
    **SHAPE, "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2816,
    "num_attention_heads": 16, "num_key_value_heads": 8,
}  # fmt: skip
#: Of such models heads of keys and values, fewer than ranks: vLLM gives each to several.
HEADS = {"one_head": 1, "two_heads": 2}


def make(kind: str) -> Any:
    """A model of a kind, with random weights."""
    import transformers as t

    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**SHAPE))
    if kind == "larger":
        return t.LlamaForCausalLM(t.LlamaConfig(**LARGER))
    if kind in HEADS:
        return t.LlamaForCausalLM(t.LlamaConfig(**{**LARGER, "num_key_value_heads": HEADS[kind]}))
    if kind == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**SHAPE, tie_word_embeddings=True))
    if kind == "mixtral":
        return t.MixtralForCausalLM(t.MixtralConfig(**SHAPE, num_local_experts=4))
    if kind == "opt":
        return t.OPTForCausalLM(t.OPTConfig(**OPT))
    raise SystemExit(f"no kind {kind!r}")


def tokenizer() -> Any:
    """Words by number: ``w7`` is token 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, WORDS)}}
    found = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def main(wanted: list[tuple[str, str, str, int]]) -> None:
    """Make each, and save it as safetensors."""
    import torch

    for folder, kind, dtype, seed in wanted:
        torch.manual_seed(seed)
        make(kind).to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
