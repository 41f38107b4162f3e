"""Models of transformers, loaded from checkpoints and stored as such.

    from ckptfmt.transformers import load_model, save_model

    save_model(model, "models/opt-1.3b", tokenizer=tokenizer)
    model = load_model("models/opt-1.3b", device_map="npu:0")

Importing this imports neither transformers nor torch; names are resolved when they are first used.
``import transformers`` in these modules is the library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptfmt.transformers.adapters import load_lora, save_lora
    from ckptfmt.transformers.model import from_pretrained, load_model, save_model

_HOMES = {
    "load_lora": "adapters", "save_lora": "adapters",
    "from_pretrained": "model", "load_model": "model", "save_model": "model",
}  # fmt: skip

__all__ = ["from_pretrained", "load_lora", "load_model", "save_lora", "save_model"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
