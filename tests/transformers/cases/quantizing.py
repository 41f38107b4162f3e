"""Quantized checkpoints: bit for bit, through the library's quantizers, or told what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from safetensors.torch import save_file

import ckptfmt
from ckptfmt.transformers import load_model
from tests.helpers.models import equal_bits
from tests.transformers.cases.refusing import raised
from tests.transformers.models import DTYPE, answers, new, same_weights

CONFIGS = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm",
            "zero_point": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16,
        }}},
    },
}  # fmt: skip


def packed(name: str, weight: torch.Tensor, method: str) -> dict[str, torch.Tensor]:
    """A matrix in the tensors of a method, of random bits where they are packed."""
    above, (rows, columns) = name.removesuffix("weight"), weight.shape
    if method == "fp8":
        return {
            name: weight.to(torch.float8_e4m3fn),
            f"{above}weight_scale_inv": torch.rand(-(-rows // 16), -(-columns // 16)) + 0.5,
        }
    words = torch.randint(-(1 << 31), 1 << 31, (rows * columns // 8,), dtype=torch.int32)
    if method == "compressed-tensors":
        return {
            f"{above}weight_packed": words.view(rows, columns // 8),
            f"{above}weight_scale": torch.rand(rows, columns // 16).to(torch.bfloat16) / 10,
            f"{above}weight_shape": torch.tensor([rows, columns]),
        }
    return {
        f"{above}qweight": words.view(columns // 8, rows),
        f"{above}qzeros": words[: rows * columns // 128].clone(),
        f"{above}scales": torch.rand(columns // 16, rows).to(torch.float16),
    }


def written(folder: Path, method: str) -> Path:
    """A folder as such models are published."""
    model = new("llama", "bf16")
    state: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        matrix = "_proj." in name
        state |= packed(name, tensor, method) if matrix else {name: tensor.clone()}
    source = folder / "source"
    model.config.save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    config |= {"quantization_config": CONFIGS[method], "architectures": ["LlamaForCausalLM"]}
    (source / "config.json").write_text(json.dumps(config))
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    ckptfmt.convert(source, folder / "m.ckpt")
    found = ckptfmt.load(folder / "m.ckpt")
    assert set(found) == set(state)
    assert all(equal_bits(found[name], tensor) for name, tensor in state.items())
    ckptfmt.save_dict(found, folder / "again.ckpt")
    found = ckptfmt.load(folder / "again.ckpt")
    assert all(equal_bits(found[name], tensor) for name, tensor in state.items())
    return source


def like_the_library(folder: Path, method: str) -> None:
    """What the library makes of a folder is what it makes of its tensors here; or what it says."""
    source = written(folder, method)
    try:
        theirs = transformers.LlamaForCausalLM.from_pretrained(source, **{DTYPE: torch.bfloat16})
    except (ImportError, RuntimeError) as error:
        kind = (
            ckptfmt.MissingDependencyError
            if isinstance(error, ImportError)
            else ckptfmt.SourceError
        )
        found = raised(kind, load_model, folder / "m.ckpt", "cpu")
        assert f"quantized by {method!r}: " in str(found)
        assert " ".join(str(error).split()) in str(found)
        assert "bit for bit" in found.hint
        return
    ours = load_model(folder / "m.ckpt", "cpu")
    same_weights(ours, theirs)
    assert torch.equal(answers(ours), answers(theirs))


def fp8_without_a_gpu(folder: Path) -> None:
    """The newest transformers makes bf16 of it; older ones refuse."""
    written(folder, "fp8")
    if Version(transformers.__version__).major < 5:
        error = raised(ckptfmt.SourceError, load_model, folder / "m.ckpt", "cpu")
        assert "GPU" in str(error)
        return
    model = load_model(folder / "m.ckpt", "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tensors = ckptfmt.load(folder / "m.ckpt")
    name = "model.layers.0.self_attn.q_proj.weight"
    scale = tensors[f"{name}_scale_inv"].repeat_interleave(16, 0).repeat_interleave(16, 1)
    wanted = tensors[name].to(torch.float32) * scale
    found = model.get_parameter(name).to(torch.float32)
    assert torch.allclose(found, wanted, rtol=0.01)
