"""Make the golden checkpoints of ranks: ``python -m tests.golden.make_ranks FOLDER``.

As ``make_v1``: made once, and only ever added to. What each rank has stands beside the folders, cut
by indices one at a time, which passes through nothing of ckptfmt.
"""

from __future__ import annotations

import itertools
import json
import sys
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ckptfmt
from ckptfmt.saving import join_ranks
from tests.golden.make_v1 import Golden, one, source

#: Of several blocks and of one, along either dimension, packed, tied, and what ranks share.
CUT = [
    one("norm", "float32", "F32", 5),
    Golden(("embed", "head"), "bfloat16", (8, 3), "BF16", (8, 3)),
    one("o.weight", "int16", "I16", 3, 4),
    one("qkv.weight", "uint8", "U8", 8, 2),
    one("gate_up", "float32", "F32", 2, 8, 3),
    one("scale", "float16", "F16"),
]
RULES = {
    "embed": "colwise", "head": "colwise", "o.*": "rowwise",
    "qkv.*": {"kind": "packed_colwise", "blocks": [4, 2, 2]}, "gate_up": "packed_colwise",
}  # fmt: skip
#: For each tensor that is cut: the dimension, and its blocks.
CUTS = {
    "embed": (0, [8]), "o.weight": (1, [4]), "qkv.weight": (0, [4, 2, 2]), "gate_up": (1, [4, 4]),
}  # fmt: skip
RANKS = 2
#: What ranks have of their own, and alike.
STATE = [
    [one("norm", "float32", "F32", 5), one("w", "bfloat16", "BF16", 3, 2)],
    [
        one("norm", "float32", "F32", 5), one("w", "bfloat16", "BF16", 2, 2),
        Golden(("tied", "too"), "uint8", (7,), "U8", (7,)),
    ],
]  # fmt: skip
LAYOUT = {"engine": "example 1.2", "model": "golden"}


def pieces(golden: Golden, rank: int) -> dict[str, Any]:
    """What one rank has of a tensor of the first checkpoint."""
    expected = golden.expected
    if golden.names[0] not in CUTS:
        return expected
    dim, blocks = CUTS[golden.names[0]]
    wanted, start = [], 0
    for block in blocks:
        share = block // RANKS
        wanted += range(start + rank * share, start + (rank + 1) * share)
        start += block
    shape = list(golden.shape)
    itemsize = len(golden.data) // prod(shape)
    kept = b""
    for number, index in enumerate(itertools.product(*map(range, shape))):
        if index[dim] in wanted:
            kept += golden.data[number * itemsize : (number + 1) * itemsize]
    shape[dim] = len(wanted)
    return {**expected, "shape": shape, "nbytes": len(kept), "hex": kept.hex()}


def expected() -> dict[str, Any]:
    """What the checkpoints hold: whole, and for each rank."""
    return {
        "cut.ckpt": {
            "whole": [golden.expected for golden in CUT],
            "ranks": [[pieces(golden, rank) for golden in CUT] for rank in range(RANKS)],
        },
        "state.ckpt": {"ranks": [[golden.expected for golden in rank] for rank in STATE]},
    }


def make(name: str, target: Path) -> None:
    """Make one of the two."""
    if name == "cut.ckpt":
        ckptfmt.convert(source(CUT), target, tensor_parallel=RANKS, tensor_parallel_plan=RULES)
        return
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"rank{i}") for i in range(len(STATE))]
        for path, tensors in zip(paths, STATE, strict=True):
            ckptfmt.save_dict(source(tensors), path)
        join_ranks(paths, target, layout=LAYOUT)


def main(folder: Path) -> None:
    """Make what is not there yet."""
    for name, values in expected().items():
        if (folder / name).exists():
            print(f"{folder / name} is there and stays as it is")
            continue
        make(name, folder / name)
        (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
