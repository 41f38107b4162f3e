"""Small checkpoints to convert, and equality bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, row-major; NaNs compare as what they are."""
    flat = tensor.detach().contiguous().cpu().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def equal_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random bits of any dtype, NaNs and denormals included; bool is kept to 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    count = 1
    for n in shape:
        count *= n
    size = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, high, (count * size,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)


def small_model(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors smaller than a page, of several blocks, of odd sizes, of no bytes at all."""
    shapes = {
        "embed.weight": ((1000, 300), torch.bfloat16),
        "layers.0.attn.weight": ((512, 1027), torch.float32),
        "layers.0.attn.bias": ((7,), torch.float16),
        "layers.0.norm": ((), torch.float32),
        "layers.1.empty": ((0, 5), torch.float32),
        "layers.1.mask": ((3, 5, 2), torch.bool),
        "position_ids": ((1, 77), torch.int64),
    }
    return {
        name: random_tensor(shape, dtype, seed + i)
        for i, (name, (shape, dtype)) in enumerate(shapes.items())
    }


def write_folder(
    folder: Path, tensors: dict[str, torch.Tensor], *, shards: int = 1, config: bool = True
) -> Path:
    """A Hugging Face checkpoint folder: safetensors in shards with an index, and some sidecars."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            mine = {n: tensors[n] for n in names[i::shards]}
            save_file(mine, folder / file, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(mine, file))
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config:
        (folder / "config.json").write_text('{"model_type": "test"}\n')
        (folder / "tokenizer").mkdir(exist_ok=True)
        (folder / "tokenizer" / "vocab.txt").write_text("hello\nworld\n")
    return folder
