"""Make the golden checkpoints of format 1: ``python -m tests.golden.make_v1 FOLDER``.

They hold the format still: what a released version wrote, later ones must read. So they are made
once, and only ever added to. Bytes come from a hash of the tensor's name; the expected values
beside the folders do not pass through ckptfmt at all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

import ckptfmt


@dataclass(frozen=True)
class Golden:
    """One tensor: its names, torch's dtype and shape, and how both stand in the index."""

    names: tuple[str, ...]
    torch_dtype: str
    torch_shape: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]
    hex: str = ""  # the bytes, where they are to be seen; else a hash makes them
    repeat: int = 0  # bytes after which they begin again: a large file that packs well

    @property
    def data(self) -> bytes:
        """Its bytes."""
        total = prod(self.torch_shape) * getattr(torch, self.torch_dtype).itemsize
        if self.hex:
            assert len(self.hex) == 2 * total
            return bytes.fromhex(self.hex)
        seed = hashlib.shake_256(f"{self.names[0]}/{self.dtype}".encode())
        if self.repeat:
            return (seed.digest(self.repeat) * (total // self.repeat + 1))[:total]
        data = seed.digest(total)
        return bytes(b & 1 for b in data) if self.dtype == "BOOL" else data

    @property
    def tensor(self) -> torch.Tensor:
        """The same as torch holds it."""
        dtype = getattr(torch, self.torch_dtype)
        if not self.data:
            return torch.empty(self.torch_shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(self.data), dtype=torch.uint8)
        return flat.view(dtype).view(self.torch_shape)

    @property
    def expected(self) -> dict[str, Any]:
        """As it stands in ``expected.json``."""
        data = self.data[: self.repeat] if self.repeat else self.data
        return {
            "names": list(self.names), "dtype": self.dtype, "shape": list(self.shape),
            "nbytes": len(self.data), "hex": data.hex(),
        }  # fmt: skip


def one(name: str, torch_dtype: str, dtype: str, *shape: int) -> Golden:
    """A tensor whose shape is the same for torch and in the index."""
    return Golden((name,), torch_dtype, shape, dtype, shape)


#: As small as it gets: shown byte by byte in docs/format.md.
TINY = [
    replace(
        one("weight", "float32", "F32", 2, 3),  # 1 to 6
        hex="0000803f" "00000040" "00004040" "00008040" "0000a040" "0000c040",
    ),
    Golden(("embed", "head"), "bfloat16", (4,), "BF16", (4,), hex="003f80bf00408040"),
    replace(one("scale", "float16", "F16"), hex="0030"),
    one("empty", "int64", "I64", 0),
]
#: Every dtype that safetensors or torch knows by a name of its own, under names of every kind.
DTYPES = [
    one("model.layers.0.self_attn.q_proj.weight", "float32", "F32", 5, 3),
    one("", "float64", "F64", 3),
    one(" ", "float16", "F16", 1, 1, 1, 1, 7),
    one("ü", "bfloat16", "BF16", 2, 3, 5),
    one("日本語.重み", "bool", "BOOL", 9),
    one("🤗", "uint8", "U8", 4095),
    one("a/../b", "int8", "I8", 4096),
    one("new\nline", "uint16", "U16", 3),
    one("tab\tand\0zero", "int16", "I16", 3),
    one('quote"', "uint32", "U32", 2, 2),
    one("back\\slash", "int32", "I32", 2, 2),
    one("\u2028\u0301", "uint64", "U64", 1),
    one("*?[a]", "int64", "I64", 1),
    one("complex32", "complex32", "C32", 3),
    one("complex64", "complex64", "C64", 3),
    one("complex128", "complex128", "C128", 3),
    one("float8.e4m3", "float8_e4m3fn", "F8_E4M3", 17),
    one("float8.e5m2", "float8_e5m2", "F8_E5M2", 17),
    one("float8.e4m3fnuz", "float8_e4m3fnuz", "F8_E4M3FNUZ", 17),
    one("float8.e5m2fnuz", "float8_e5m2fnuz", "F8_E5M2FNUZ", 17),
    one("float8.e8m0", "float8_e8m0fnu", "F8_E8M0", 17),
    Golden(("float4",), "float4_e2m1fn_x2", (3, 4), "F4", (3, 8)),
    one("int4", "int4", "INT4", 5),
    one("uint1", "uint1", "UINT1", 5),
    one("bits16", "bits16", "BITS16", 5),
    one("scalar", "float32", "F32"),
    one("empty", "float32", "F32", 3, 0, 2),
    one("scalar.bool", "bool", "BOOL"),
]
#: Two partitions and more, a wider alignment, and a tensor that spans partitions.
PARTS = [
    one("first", "float32", "F32", 7),
    Golden(("large", "tied"), "uint8", ((1 << 20) + 777,), "U8", ((1 << 20) + 777,), repeat=64),
    one("last", "int16", "I16", 3, 3),
]

CHECKPOINTS: dict[str, tuple[list[Golden], dict[str, Any]]] = {
    "tiny.ckpt": (TINY, {}),
    "dtypes.ckpt": (DTYPES, {}),
    "parts.ckpt": (PARTS, {"alignment": 8192, "partition_size": 8192 + (1 << 20) + 8}),
}


def source(tensors: list[Golden]) -> dict[str, torch.Tensor]:
    """The live dict to convert; tied names share one tensor."""
    made: dict[str, torch.Tensor] = {}
    for golden in tensors:
        made.update(dict.fromkeys(golden.names, golden.tensor))
    return made


def missing_dtypes(name: str) -> list[str]:
    """What this torch would need to make one of the checkpoints and does not have."""
    wanted = {golden.torch_dtype for golden in CHECKPOINTS[name][0]}
    return sorted(dtype for dtype in wanted if not hasattr(torch, dtype))


def convert(name: str, target: Path) -> None:
    """Make one of the checkpoints."""
    tensors, options = CHECKPOINTS[name]
    ckptfmt.convert(source(tensors), target, **options)


def main(folder: Path) -> None:
    """Make what is not there yet."""
    for name, (tensors, _) in CHECKPOINTS.items():
        if (folder / name).exists():
            print(f"{folder / name} is there and stays as it is")
            continue
        convert(name, folder / name)
        values = json.dumps([golden.expected for golden in tensors], indent=1, ensure_ascii=True)
        (folder / f"{name}.json").write_text(values + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
