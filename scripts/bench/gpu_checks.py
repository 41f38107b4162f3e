"""Right bytes on a real GPU: operators right after a load, and loads into memory just used.

    python gpu_checks.py CHECKPOINT LOADS

Prints a line of JSON. Also what compute-sanitizer watches: with 1 load.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import ckptfmt

DEVICE = "cuda:0"


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether all bits are equal; an operator on the current stream, not waited for."""
    return (a.view(torch.int16) == b.view(torch.int16)).all()


def main() -> None:
    """Load again and again while other work uses, and has just used, the same memory."""
    checkpoint, loads = Path(sys.argv[1]), int(sys.argv[2])
    wanted = {}
    for file in sorted(checkpoint.with_name(checkpoint.name.removesuffix(".ckpt"))
                       .glob("*.safetensors")):  # fmt: skip
        wanted |= {name: tensor.to(DEVICE) for name, tensor in load_file(file).items()}
    other = torch.cuda.Stream()
    wrong = 0
    for number in range(loads):
        stream = other if number % 2 else torch.cuda.current_stream()
        with torch.cuda.stream(stream):
            # Memory that long work still writes to, given back before that work is done.
            for tensor in list(wanted.values())[:8]:
                used = torch.empty_like(tensor)
                for _ in range(4):
                    used.normal_()
                del used
            found = ckptfmt.load(checkpoint, device=DEVICE)
            equal = [_same(found[name], tensor) for name, tensor in wanted.items()]
            wrong += not bool(torch.stack(equal).all())
            if number % 3 == 0:  # in place, over what was there
                for tensor in found.values():
                    tensor.zero_()
                with ckptfmt.open(checkpoint) as opened:
                    opened.load_into(found)
                equal = [_same(found[name], tensor) for name, tensor in wanted.items()]
                wrong += not bool(torch.stack(equal).all())
        del found, equal
    torch.cuda.synchronize()
    stats = ckptfmt.load_stats()
    print(json.dumps({"loads": loads, "tensors": len(wanted), "wrong": wrong,
                      "staging": stats.staging if stats else ""}))  # fmt: skip


if __name__ == "__main__":
    main()
