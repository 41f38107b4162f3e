"""Models answer what the library's own loader has them answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

import ckptfmt
from ckptfmt.transformers import from_pretrained, load_model, save_model
from tests.transformers.models import (
    DTYPE,
    DTYPES,
    answers,
    auto_class,
    new,
    same_weights,
    stored,
    ties,
)


def like_the_library(folder: Path, kind: str, dtype: str, form: str) -> None:
    """Tokens, weights, buffers and ties equal, from a conversion or a live model."""
    model = new(kind, dtype)
    source = stored(folder, model)
    target = folder / "m.ckpt"
    if form == "converted":
        ckptfmt.convert(source, target)
    else:
        save_model(model, target)
        assert set(ckptfmt.open(target).names) == published(source, model)
    theirs = getattr(transformers, auto_class(kind)).from_pretrained(source, **{DTYPE: "auto"})
    ours = load_model(target, hf_model_class=auto_class(kind))
    assert type(ours) is type(theirs)
    same_weights(ours, theirs)
    assert ties(ours) == ties(theirs)
    assert torch.equal(answers(ours), answers(theirs))
    if dtype == "fp32":  # as it was made it has computed buffers in fp32, too
        assert torch.equal(answers(ours), answers(model))
    assert not ours.training
    assert ours.dtype == DTYPES[dtype]
    wanted = theirs.config.to_dict()
    assert ours.config.to_dict() == {
        **wanted, **{name: str(target) for name in wanted if name == "_name_or_path"}
    }  # fmt: skip
    assert ours.name_or_path == str(target)


def published(source: Path, model: Any) -> set[str]:
    """Names as the library stores them, and those of tied weights, of which it stores one."""
    with safe_open(source / "model.safetensors", "pt") as file:
        names = set(file.keys())
    return names | {name for names in ties(model) for name in names}


def cast(folder: Path, kind: str, stored_as: str, wanted: str) -> None:
    """A cast gives what the library's gives."""
    source = stored(folder, new(kind, stored_as))
    ckptfmt.convert(source, folder / "m.ckpt")
    loader = getattr(transformers, auto_class(kind))
    theirs = loader.from_pretrained(source, **{DTYPE: DTYPES[wanted]})
    ours = load_model(
        folder / "m.ckpt", torch_dtype=DTYPES[wanted], hf_model_class=auto_class(kind)
    )
    same_weights(ours, theirs)
    assert torch.equal(answers(ours), answers(theirs))


def as_stored(folder: Path) -> None:
    """What the configuration says of the dtype is not what decides."""
    ckptfmt.convert(stored(folder, new("llama", "bf16")), folder / "m.ckpt", dtype="fp16")
    assert '"bfloat16"' in (folder / "m.ckpt" / "config.json").read_text()
    model = load_model(folder / "m.ckpt")
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert getattr(model.config, DTYPE) == torch.float16
    tensors = ckptfmt.load(folder / "m.ckpt")
    assert all(torch.equal(p, tensors[n]) for n, p in model.named_parameters())


def kept_in_fp32(folder: Path) -> None:
    """Modules that their class keeps in fp32 lose no digit on the way."""
    kind = transformers.T5ForConditionalGeneration
    assert kind._keep_in_fp32_modules == ["wo"]
    source = stored(folder, new("t5", "fp32"))
    ckptfmt.convert(source, folder / "m.ckpt")
    theirs = kind.from_pretrained(source, **{DTYPE: torch.float16})
    ours = load_model(folder / "m.ckpt", torch_dtype="fp16", hf_model_class=kind)
    same_weights(ours, theirs)
    assert {p.dtype for n, p in ours.named_parameters() if ".wo." in n} == {torch.float32}
    assert ours.shared.weight.dtype == torch.float16


def of_plain_safetensors(folder: Path) -> None:
    """A folder that nobody converted."""
    model = new("llama", "bf16")
    source = stored(folder, model)
    ours = load_model(source)
    same_weights(ours, transformers.AutoModelForCausalLM.from_pretrained(source, **{DTYPE: "auto"}))
    assert torch.equal(answers(ours), answers(model))


def the_tokenizer_travels(folder: Path) -> None:
    """Beside what is converted, and beside what is saved."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(64)}
    splitter = Tokenizer(models.WordLevel(words, unk_token="w0"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=splitter)
    model = new("llama")
    source = stored(folder, model)
    tokenizer.save_pretrained(source)
    ckptfmt.convert(source, folder / "converted.ckpt")
    save_model(model, folder / "saved.ckpt", tokenizer=tokenizer)
    for name in ("converted.ckpt", "saved.ckpt"):
        found = transformers.AutoTokenizer.from_pretrained(folder / name)
        assert found("w5 w9")["input_ids"] == [5, 9]


def generation_config(folder: Path) -> None:
    """Its own file, the caller's, or what an old configuration says."""
    model = new("llama")
    model.generation_config = transformers.GenerationConfig(
        max_new_tokens=7, do_sample=True, top_k=3
    )
    save_model(model, folder / "m.ckpt")
    assert load_model(folder / "m.ckpt").generation_config.top_k == 3
    given = transformers.GenerationConfig(top_k=4, do_sample=True)
    assert load_model(folder / "m.ckpt", generation_config=given).generation_config.top_k == 4
    source = stored(folder, new("bart"))
    (source / "generation_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_beams": 4}))
    ckptfmt.convert(source, folder / "old.ckpt")
    theirs = transformers.BartForConditionalGeneration.from_pretrained(source)
    found = load_model(folder / "old.ckpt", hf_model_class="AutoModelForSeq2SeqLM")
    assert found.generation_config.num_beams == 4
    assert found.generation_config.to_dict() == theirs.generation_config.to_dict()


def keywords(folder: Path) -> None:
    """They reach the library: of the attention, of the configuration."""
    save_model(new("llama"), folder / "m.ckpt")
    model = load_model(folder / "m.ckpt", attn_implementation="eager", rms_norm_eps=0.25)
    assert model.config._attn_implementation == "eager"
    assert model.model.norm.variance_epsilon == 0.25
    assert load_model(folder / "m.ckpt").config._attn_implementation == "sdpa"
    config = transformers.LlamaConfig.from_pretrained(folder / "m.ckpt", rms_norm_eps=0.5)
    assert from_pretrained(folder / "m.ckpt", config=config).model.norm.variance_epsilon == 0.5
    found = from_pretrained(folder / "m.ckpt", dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
