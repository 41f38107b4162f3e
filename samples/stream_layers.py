"""Go through a model layer by layer without ever holding all of it.

    python samples/stream_layers.py CHECKPOINT

Prints the mean absolute value of each layer's floating tensors. What is read ahead is bounded by
`max_nbytes`, whatever the model's size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

import ckptfmt

MAX_NBYTES = 256 << 20


def layers(checkpoint: ckptfmt.Checkpoint) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Group the stream by what precedes a name's last dot; the next one's begin ends a group."""
    layer: str | None = None
    tensors: list[torch.Tensor] = []
    for name, tensor in checkpoint.stream(max_nbytes=MAX_NBYTES):
        parent = name.rpartition(".")[0]
        if layer is not None and parent != layer:
            yield layer, tensors
            tensors = []  # the memory goes back once the caller lets go of it too
        layer = parent
        tensors.append(tensor)
    if layer is not None:
        yield layer, tensors


def main(path: str) -> None:
    """Print a line for each layer."""
    with ckptfmt.open(path) as checkpoint:
        for layer, tensors in layers(checkpoint):
            floating = [t for t in tensors if t.is_floating_point() and t.numel()]
            means = [f"{t.float().abs().mean():.6f}" for t in floating]
            print(f"{layer or '(top)'}: {len(tensors)} tensors, {', '.join(means) or '-'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
