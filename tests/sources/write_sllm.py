"""Write a folder with ServerlessLLM Store's own writer.

    python tests/sources/write_sllm.py LIBRARY FOLDER

LIBRARY is its ``csrc/checkpoint/tensor_writer.cpp`` and ``aligned_buffer.cpp``, compiled with three
functions around them: ``make(path)``, ``put(writer, data, nbytes)`` and ``done(writer)``. The rest
of its package needs CUDA; what its ``save_dict`` does in Python stands here. FOLDER has to be where
direct writes need no alignment, as on tmpfs: elsewhere the writer loses the end of what it writes.
``tests/sources/sllm_store`` was made by release 0.8.0.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPES = ["float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8"]


def main(library: str, folder: str) -> None:
    """``store``, and the tensors that are in it."""
    writer = ctypes.CDLL(library)
    writer.make.restype = ctypes.c_void_p
    writer.put.restype = ctypes.c_ulonglong
    writer.put.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulonglong]
    writer.done.argtypes = [ctypes.c_void_p]
    torch.manual_seed(0)
    tensors = {}
    for name in DTYPES:
        for shape in ((3, 5), (7,), ()):
            value = torch.randint(0, 100, shape).to(getattr(torch, name))
            tensors[f"{name}.{value.numel()}"] = value
    tensors["embed"] = torch.randn(6, 4)
    tensors["turned"] = torch.randn(5, 3).t()
    tensors["head"] = tensors["embed"]
    store = Path(folder) / "store"
    store.mkdir(parents=True)
    made = writer.make(str(store / "tensor.data").encode())
    offsets: dict[int, int] = {}
    index = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in offsets:
            offsets[key] = writer.put(made, key, storage.nbytes())
        index[name] = (
            offsets[key], storage.nbytes(), tuple(tensor.shape), tuple(tensor.stride()),
            str(tensor.dtype),
        )  # fmt: skip
    writer.done(made)
    (store / "tensor_index.json").write_text(json.dumps(index))
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        Path(folder) / "expected.safetensors",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
