"""Models of transformers, loaded from checkpoints and stored as such.

    from ckptfmt.transformers import load_model, save_model

    save_model(model, "models/opt-1.3b", tokenizer=tokenizer)
    model = load_model("models/opt-1.3b", device_map="npu:0")

Importing this imports neither transformers nor torch. ``import transformers`` in these modules is
the library.
"""

from __future__ import annotations

from ckptfmt.transformers.adapters import load_lora, save_lora
from ckptfmt.transformers.model import from_pretrained, load_model, save_model

__all__ = ["from_pretrained", "load_lora", "load_model", "save_lora", "save_model"]
