"""What is refused, and in which words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version

import ckptfmt
from ckptfmt.transformers import load_model, save_model
from tests.transformers.models import answers, new, stored


def raised(kind: type[Exception], call: Any, *given: Any, **named: Any) -> Any:
    """The error, which has to be of exactly this kind."""
    try:
        call(*given, **named)
    except kind as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def missing_unexpected_and_wrong(folder: Path) -> None:
    """All names, in one error."""
    model = new("llama")
    state = dict(model.state_dict())
    del state["model.norm.weight"], state["model.layers.1.mlp.up_proj.weight"]
    ckptfmt.save_dict({**state, "other.weight": torch.ones(3)}, folder / "a.ckpt")
    model.config.save_pretrained(folder / "a.ckpt")
    error = raised(ckptfmt.LoadMismatchError, load_model, folder / "a.ckpt")
    assert str(error) == (
        f"{folder / 'a.ckpt'}: not a LlamaForCausalLM: 2 missing in the checkpoint: "
        "model.layers.1.mlp.up_proj.weight, model.norm.weight; 1 not in the model: other.weight"
    ), error
    assert "strict=False" in error.hint
    found = load_model(folder / "a.ckpt", strict=False)
    if Version(transformers.__version__) >= Version("4.52"):  # before, it initializes no norms
        assert torch.equal(found.model.norm.weight, torch.ones(32))
    assert not any(p.is_meta for p in found.parameters())
    state = {**model.state_dict(), "model.norm.weight": torch.ones(5)}
    ckptfmt.save_dict(state, folder / "b.ckpt")
    model.config.save_pretrained(folder / "b.ckpt")
    error = raised(ckptfmt.LoadMismatchError, load_model, folder / "b.ckpt", strict=False)
    assert str(error).endswith(
        "1 of another shape: model.norm.weight: [5] here, [32] in the model"
    ), error


def experts(folder: Path) -> None:
    """One that cannot be joined with the others, or misses."""
    model = new("mixtral")
    save_model(model, folder / "m.ckpt")
    state = ckptfmt.load(folder / "m.ckpt")
    (name,) = [n for n in state if n.endswith("layers.1.block_sparse_moe.experts.2.w2.weight")]
    ckptfmt.save_dict({**state, name: torch.ones(3, 5)}, folder / "a.ckpt")
    model.config.save_pretrained(folder / "a.ckpt")
    error = raised(ckptfmt.LoadMismatchError, load_model, folder / "a.ckpt")
    assert "cannot become the model's" in str(error) or f"{name}: [3, 5] here" in str(error), error
    del state[name]
    ckptfmt.save_dict(state, folder / "b.ckpt")
    model.config.save_pretrained(folder / "b.ckpt")
    raised(ckptfmt.LoadMismatchError, load_model, folder / "b.ckpt")


def old_names(folder: Path) -> None:
    """Norms of BERT as they were once called, and as the library calls them."""
    model = new("bert")
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): t
        for name, t in model.state_dict().items()
    }
    assert any(name.endswith("LayerNorm.beta") for name in state)
    ckptfmt.save_dict(state, folder / "m.ckpt", beside=[model.config])
    found = load_model(folder / "m.ckpt", hf_model_class="AutoModel")
    assert torch.equal(answers(found), answers(model))


def heads(folder: Path) -> None:
    """A model below another head: its prefix comes and goes, the head is missed or left."""
    source = stored(folder, new("bert"))
    ckptfmt.convert(source, folder / "base.ckpt")
    kind = "BertForSequenceClassification"
    error = raised(ckptfmt.LoadMismatchError, load_model, folder / "base.ckpt", hf_model_class=kind)
    assert "2 missing in the checkpoint: classifier.bias, classifier.weight" in str(error), error
    found = load_model(folder / "base.ckpt", hf_model_class=kind, strict=False)
    base = load_model(folder / "base.ckpt", hf_model_class="AutoModel")
    assert torch.equal(answers(found.bert), answers(base))
    save_model(found, folder / "head.ckpt")
    error = raised(
        ckptfmt.LoadMismatchError, load_model, folder / "head.ckpt", hf_model_class="AutoModel"
    )
    assert "2 not in the model: classifier.bias, classifier.weight" in str(error), error
    again = load_model(folder / "head.ckpt", hf_model_class="AutoModel", strict=False)
    assert torch.equal(answers(again), answers(base))
    save_model(new("qwen2"), folder / "tied.ckpt")  # its head is the embedding, which is there
    body = load_model(folder / "tied.ckpt", hf_model_class="AutoModel")
    assert torch.equal(body.embed_tokens.weight, new("qwen2").lm_head.weight)


def ignored_names(folder: Path) -> None:
    """What the class says it does not want, and buffers that models once stored."""
    model = new("llama")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    ckptfmt.save_dict({**model.state_dict(), **old}, folder / "m.ckpt")
    model.config.save_pretrained(folder / "m.ckpt")
    assert torch.equal(answers(load_model(folder / "m.ckpt")), answers(model))


def damage(folder: Path) -> None:
    """A flipped bit is told as such, not as what the library makes of it."""
    save_model(new("llama"), folder / "m.ckpt")
    entry = ckptfmt.open(folder / "m.ckpt").info("model.norm.weight")
    path = folder / "m.ckpt" / "part-00000.ckptfmt"
    with path.open("r+b") as file:
        file.seek(entry.extents[0].offset)
        byte = file.read(1)[0]
        file.seek(entry.extents[0].offset)
        file.write(bytes([byte ^ 1]))
    error = raised(ckptfmt.ChecksumError, load_model, folder / "m.ckpt")
    assert error.tensor == "model.norm.weight"
    load_model(folder / "m.ckpt", verify=False)


def configurations(folder: Path) -> None:
    """None at all, one of generation that cannot be read, one of another size."""
    model = new("llama")
    path = folder / "m.ckpt"
    save_model(model, path)
    (path / "generation_config.json").write_text("{")
    error = raised(ckptfmt.SourceError, load_model, path)
    assert str(error).startswith(f"{path}: its generation_config.json: "), error
    (path / "generation_config.json").unlink()
    assert load_model(path).generation_config.eos_token_id == model.config.eos_token_id
    error = raised(ckptfmt.LoadMismatchError, load_model, path, intermediate_size=40)
    assert "config.json" in error.hint
    (path / "config.json").unlink()
    error = raised(ckptfmt.SourceError, load_model, path)
    assert str(error) == f"{path}: no config.json in it, which tells what the model is"
    assert torch.equal(answers(load_model(path, config=model.config)), answers(model))


def options(folder: Path) -> None:
    """Wrong ones."""
    save_model(new("llama"), folder / "m.ckpt")
    path = folder / "m.ckpt"
    error = raised(ckptfmt.OptionError, load_model, path, hf_model_class="LlamaForCausalLLM")
    assert "LlamaForCausalLM" in error.hint
    raised(ckptfmt.OptionError, load_model, path, hf_model_class=dict)
    raised(ckptfmt.OptionError, load_model, path, hf_model_class="AutoModelForCTC")
    raised(ckptfmt.OptionError, load_model, path, device_map="disk")
    raised(ckptfmt.OptionError, load_model, path, device_map={})
    raised(ckptfmt.OptionError, load_model, path, device_map=0)
    raised(ckptfmt.OptionError, load_model, path, state_dict={})
    raised(ckptfmt.OptionError, load_model, path, max_memory={0: "1GB"})
    error = raised(ckptfmt.OptionError, load_model, path, device_map={"": "cpu", "no.such": "cpu"})
    assert "'no.such'" in str(error)
    raised(ckptfmt.UnsupportedDtypeError, load_model, path, torch_dtype="int8")
    raised(ckptfmt.MissingDependencyError, load_model, path, device_map="cuda:0")


def places(folder: Path) -> None:
    """A folder, a name below a root that is given, a name below one in the environment."""
    one, two = folder / "one", folder / "two"
    for root, seed in ((one, 1), (two, 2)):
        (root / "org").mkdir(parents=True)
        save_model(new("llama", seed=seed), root / "org" / "m")

    def weight(*given: Any, **named: Any) -> torch.Tensor:
        return load_model(*given, **named).lm_head.weight

    first, second = weight(one / "org/m"), weight(two / "org/m")
    assert not torch.equal(first, second)
    os.environ["STORAGE_PATH"] = str(two)
    try:
        assert torch.equal(weight("org/m"), second)
        assert torch.equal(weight("org/m", storage_path=one), first)
        assert torch.equal(weight(one / "org/m"), first)
        error = raised(ckptfmt.NotFoundError, load_model, "org/n")
        assert str(two / "org/n") in str(error)
        raised(ckptfmt.NotFoundError, load_model, "org/m", storage_path=folder)
    finally:
        del os.environ["STORAGE_PATH"]
    raised(ckptfmt.NotFoundError, load_model, "org/m")
    assert torch.equal(weight("org/m", "cpu", None, one, True, "LlamaForCausalLM"), first)


REMOTE = """
import pathlib, transformers
pathlib.Path(__file__).with_name("ran").touch()
class OwnConfig(transformers.LlamaConfig):
    model_type = "own"
class Own(transformers.LlamaForCausalLM):
    config_class = OwnConfig
"""


def remote_code(folder: Path) -> None:
    """It runs only if it is asked for."""
    model = new("llama")
    path = folder / "m.ckpt"
    save_model(model, path)
    (path / "own.py").write_text(REMOTE)
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "own"
    config["architectures"] = ["Own"]
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (path / "config.json").write_text(json.dumps(config))
    error = raised(ckptfmt.SourceError, load_model, path)
    assert "trust_remote_code=True" in error.hint
    cache = Path(os.environ["HF_HOME"])
    assert not list(cache.rglob("ran"))
    found = load_model(path, trust_remote_code=True)
    assert type(found).__name__ == "Own"
    assert isinstance(found, transformers.LlamaForCausalLM)
    assert torch.equal(answers(found), answers(model))
    assert list(cache.rglob("ran"))
