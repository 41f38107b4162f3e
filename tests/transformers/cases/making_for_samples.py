"""What samples and documents load: a model, a later state of it, adapters, its tokenizer."""

from __future__ import annotations

from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import ckptfmt
from ckptfmt.transformers import save_lora, save_model
from tests.transformers.cases.adapting import adapted
from tests.transformers.models import new, stored


def write(folder: Path) -> None:
    """By the names that they have there."""
    words = {f"w{i}": i for i in range(64)}
    splitter = Tokenizer(models.WordLevel(words, unk_token="w0"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=splitter, unk_token="w0")
    model = new("llama", num_hidden_layers=8)
    save_model(model, folder / "llama.ckpt", tokenizer=tokenizer)
    qwen = stored(folder, model)  # whose kind takes this tokenizer for its own
    tokenizer.save_pretrained(qwen)
    ckptfmt.convert(qwen, folder / "model.ckpt")
    qwen.rename(folder / "Qwen2.5-3B-Instruct")
    save_model(new("llama", seed=2, num_hidden_layers=8), folder / "later.ckpt")
    stored(folder, new("bert")).rename(folder / "all-MiniLM-L6-v2")
    for name, target, seed in (("one", "q_proj", 5), ("two", "v_proj", 6)):
        save_lora(adapted(target, seed=seed, layers=8), folder / f"{name}.lora", "mine")
