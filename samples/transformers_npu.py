"""Load a model of transformers onto an NPU, and have it answer.

    python samples/transformers_npu.py CHECKPOINT [DEVICE] [PROMPT]

CHECKPOINT is a converted folder, or one that still has safetensors files. DEVICE is npu:0 if not
given; auto spreads the model over all NPUs of the process, cpu needs none. Without a PROMPT, which
needs a tokenizer in the folder, it only says where the model is.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import ckptfmt
from ckptfmt.transformers import load_model


def main(path: str, device: str = "npu:0", prompt: str = "") -> None:
    """Load, say where the parameters are, and answer."""
    model = load_model(path, device_map=device)
    stats = ckptfmt.load_stats()
    assert stats is not None  # None only before this thread's first load
    print(f"{type(model).__name__}: {stats.nbytes} bytes, {stats.gb_s:.2f} GB/s, {stats.staging}")
    for name, nbytes in sorted(bytes_by_device(model).items()):
        print(f"{name}: {nbytes} bytes")
    if prompt:
        print(answer(model, path, prompt))


def answer(model: Any, path: str, prompt: str) -> str:
    """What the model says next, by its own generation config."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)  # it travelled with the weights
    tokens = tokenizer(prompt, return_tensors="pt").to(model.device)
    found = model.generate(**tokens, max_new_tokens=20)
    return str(tokenizer.decode(found[0], skip_special_tokens=True))


def bytes_by_device(model: Any) -> Counter[str]:
    """Bytes of parameters on each device; tied ones count once."""
    found: Counter[str] = Counter()
    for parameter in model.parameters():
        found[str(parameter.device)] += parameter.numel() * parameter.element_size()
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ckptfmt.CkptError as error:
        sys.exit(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
