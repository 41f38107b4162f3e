"""One model, several adapters of PEFT: stored, put onto it, switched between.

    python samples/adapters.py CHECKPOINT ADAPTER...

ADAPTER are checkpoints that `save_lora` has stored, or conversions of PEFT's folders. They may have
been trained on any device; here they go to where the modules are that they adapt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ckptfmt
from ckptfmt.transformers import load_lora, load_model, save_lora


def main(path: str, *adapters: str) -> None:
    """Load the model once, put all adapters onto it, and show that each answers differently."""
    model = load_model(path)
    tokens = torch.arange(8).view(1, 8).to(model.device)
    with torch.no_grad():
        plain = model(tokens).logits
    names = [Path(adapter).name.partition(".")[0] for adapter in adapters]
    for name, adapter in zip(names, adapters, strict=True):
        model = load_lora(model, name, adapter)
        stats = ckptfmt.load_stats()
        assert stats is not None
        print(f"{name}: {stats.nbytes} bytes in {stats.seconds * 1e3:.1f} ms")
    for name in names:
        model.set_adapter(name)
        with torch.no_grad():
            change = (model(tokens).logits - plain).abs().max()
        print(f"{name}: logits change by up to {change:.3f}")
        save_lora(model, f"{name}.again", name, force=True)  # and back, without the model below


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ckptfmt.CkptError as error:
        sys.exit(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
