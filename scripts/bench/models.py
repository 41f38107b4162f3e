"""Model files for benchmarks: shapes of real models, random bytes, and sums to check a load by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

#: Bytes of a safetensors shard, as hubs cut them.
SHARD_NBYTES = 4_000_000_000


def qwen_3b(scale: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Shapes of Qwen2.5-3B: 434 bf16 tensors, 6.17 GB; fewer layers and words by `scale`."""
    hidden, inner, kv = 2048, 11008, 256
    vocab, layers = max(64, int(151936 * scale)), max(1, int(36 * scale))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.k_proj.bias": (kv,),
            f"{layer}.self_attn.k_proj.weight": (kv, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.q_proj.bias": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.v_proj.bias": (kv,),
            f"{layer}.self_attn.v_proj.weight": (kv, hidden),
        }
    shapes["model.norm.weight"] = (hidden,)
    return shapes


#: The configuration of `llama`, but for what `scale` changes.
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
    "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False, "max_position_embeddings": 2048,
}  # fmt: skip


def llama_config(scale: float = 1.0) -> dict[str, object]:
    """``config.json`` of `llama`."""
    return {
        **LLAMA, "vocab_size": max(64, int(32000 * scale)),
        "num_hidden_layers": max(1, int(20 * scale)),
    }  # fmt: skip


def llama(scale: float = 1.0) -> dict[str, tuple[int, ...]]:
    """A Llama: 183 bf16 tensors, 2.02 GB; fewer layers and words by `scale`."""
    config = llama_config(scale)
    hidden, inner, kv, vocab = 2048, 5632, 256, int(str(config["vocab_size"]))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(int(str(config["num_hidden_layers"]))):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.k_proj.weight": (kv, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv, hidden),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    return shapes


def mixture(scale: float = 1.0) -> dict[str, tuple[int, ...]]:
    """A mixture of experts: 2,995 bf16 tensors of 0.75 MB and less, 2.2 GB."""
    hidden, inner, experts = 1024, 366, max(2, int(60 * scale))
    vocab = max(64, int(1024 * scale))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(max(1, int(16 * scale))):
        layer = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (256, hidden)
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            for name in ("gate_proj", "up_proj"):
                shapes[f"{layer}.mlp.experts.{expert}.{name}.weight"] = (inner, hidden)
            shapes[f"{layer}.mlp.experts.{expert}.down_proj.weight"] = (hidden, inner)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    return shapes


def many_small(scale: float = 1.0) -> dict[str, tuple[int, ...]]:
    """100,000 tensors of 20 KiB: what the cost of a single tensor shows in."""
    return {f"block.{i}.weight": (10, 1024) for i in range(max(8, int(100_000 * scale)))}


MODELS = {"qwen3b": qwen_3b, "moe": mixture, "small100k": many_small, "llama": llama}


def make(folder: Path, model: str, scale: float = 1.0) -> Path:
    """Write a model as safetensors with ``sums.json``, unless it is there already."""
    folder = folder / (model if scale == 1 else f"{model}-{scale:g}")
    if (folder / "sums.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    import torch
    from safetensors.torch import save_file

    rng = np.random.Generator(np.random.SFC64(2026))
    shards: list[dict[str, torch.Tensor]] = [{}]
    sums: dict[str, int] = {}
    filled, files = 0, []

    def flush() -> None:
        name = f"model-{len(files) + 1:05d}-of-NNNNN.safetensors"
        save_file(shards[0], folder / name, metadata={"format": "pt"})
        files.append((name, list(shards[0])))
        shards[0] = {}

    for name, shape in MODELS[model](scale).items():
        words = rng.integers(0, 1 << 16, int(np.prod(shape)), np.uint16)
        nbytes = words.nbytes
        if shards[0] and filled + nbytes > SHARD_NBYTES:
            flush()
            filled = 0
        sums[name] = int(words.sum(dtype=np.uint64))
        shards[0][name] = torch.from_numpy(words).view(torch.bfloat16).view(shape)
        filled += nbytes
    flush()
    weight_map = {}
    for name, names in files:
        final = name.replace("NNNNN", f"{len(files):05d}")
        (folder / name).rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "sums.json").write_text(json.dumps(sums))
    return folder
