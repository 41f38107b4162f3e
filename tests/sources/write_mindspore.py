"""Write checkpoints with MindSpore's own package, and what it loads from them.

    MINDSPORE_PYTHON tests/sources/write_mindspore.py FOLDER

Run by a Python that has mindspore; ``tests/sources/mindspore`` was made by release 2.7.0.
"""

from __future__ import annotations

import json
import os
import sys

import mindspore as ms
import numpy as np
from mindspore.train import serialization

KINDS = [
    "bool_", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "bfloat16",
]  # fmt: skip
FILES = ["plain.ckpt", "checked.ckpt", "sliced.ckpt", "model.safetensors"]


def main(folder: str) -> None:
    """Four files, and ``loaded.json``."""
    rng = np.random.default_rng(0)
    values = []
    for kind in KINDS:
        shapes = [(3, 5), (7,), ()] + ([(30, 40)] if kind in ("float32", "bfloat16") else [])
        for shape in shapes:
            array = rng.integers(0, 2 if kind == "bool_" else 100, shape).astype(np.float32)
            value = ms.Parameter(ms.Tensor(array, getattr(ms, kind)))
            values.append({"name": f"{kind}.{array.size}", "data": value})
    plain, checked, sliced, other = (os.path.join(folder, name) for name in FILES)
    ms.save_checkpoint(values, plain, append_dict={"note": "größe", "epoch": 7, "rate": 0.5})
    ms.save_checkpoint(values, checked, crc_check=True)
    serialization.SLICE_SIZE = 1  # KiB, so that tensors are cut
    ms.save_checkpoint(values, sliced)
    ms.save_checkpoint(values, other, format="safetensors")
    found = {}
    for name in FILES:
        loaded = ms.load_checkpoint(os.path.join(folder, name), format=name.rpartition(".")[2])
        found[name] = {
            key: value if isinstance(value, str)
            else [str(value.dtype), list(value.shape), bytes(value.get_bytes()).hex()]
            for key, value in loaded.items()
        }  # fmt: skip
        os.chmod(os.path.join(folder, name), 0o644)
    with open(os.path.join(folder, "loaded.json"), "w", encoding="utf-8") as stream:
        json.dump(found, stream, indent=0, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1])
