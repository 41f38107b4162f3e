"""Fill a model that exists already, with no second copy of its weights.

    python samples/fill_existing_model.py TARGET

Stores a small module at TARGET, then fills a new one from it.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import ckptfmt


class Tiny(nn.Module):
    """Any module would do; the output layer of this one shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.output = nn.Linear(64, 1000)
        self.output.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the next token."""
        return self.output(self.embed(tokens))


def main(target: str) -> None:
    """Store one module, fill another, and show that they compute the same."""
    trained = Tiny()
    ckptfmt.convert(trained, target)  # tied weights are stored once, under both names

    model = Tiny()
    with ckptfmt.open(target) as checkpoint:
        try:
            checkpoint.load_into(model)
        except ckptfmt.LoadMismatchError as error:
            sys.exit(f"nothing was changed: {error}")

    tokens = torch.arange(8)
    assert torch.equal(model(tokens), trained(tokens))
    assert model.output.weight is model.embed.weight  # still tied
    print(f"filled {sum(p.numel() for p in model.parameters())} parameters in place")


if __name__ == "__main__":
    main(*sys.argv[1:])
