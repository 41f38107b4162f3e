"""Files made byte by byte: what the libraries would not write, and what damage looks like."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ckptfmt.dtypes import from_torch
from tests.helpers.models import bits


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    """A safetensors file of any dtype: name to (dtype, shape, bytes)."""
    header: dict[str, Any] = {}
    payload = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        payload += data
    return write_safetensors_header(path, json.dumps(header).encode(), payload)


def write_plain(path: Path, tensors: dict[str, torch.Tensor], start: int = 0) -> Path:
    """A safetensors file whose data begin at `start`, modulo 4096, in the order of the dict.

    What the library would not write: it sorts by alignment, and begins at multiples of 8.
    """
    header: dict[str, Any] = {}
    payload = bytearray()
    for name, tensor in tensors.items():
        row = from_torch(tensor.dtype)
        shape = list(tensor.shape)
        if row.pack > 1:
            shape[-1] *= row.pack
        data = bits(tensor)
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {"dtype": row.name, "shape": shape, "data_offsets": offsets}
        payload += data
    text = json.dumps(header).encode()
    text += b" " * ((start - 8 - len(text)) % 4096)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def write_safetensors_header(path: Path, header: bytes, payload: bytes) -> Path:
    """A safetensors file with this very header."""
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)
    return path


def save_legacy(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """What torch wrote before it used zip archives."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def edit_index(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the index of a checkpoint, and its sum with it: only the content is wrong then."""
    path = checkpoint / "ckptfmt.json"
    index = json.loads(path.read_bytes())
    change(index)
    write_index(checkpoint, json.dumps(index).encode())


def write_index(checkpoint: Path, data: bytes) -> None:
    """Put any bytes in the index's place, listed with their true sum."""
    (checkpoint / "ckptfmt.json").write_bytes(data)
    sums = checkpoint / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    new = f"{hashlib.sha256(data).hexdigest()}  ckptfmt.json"
    kept = [new if line.endswith("  ckptfmt.json") else line for line in lines]
    sums.write_text("\n".join(kept) + "\n")


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1 << bit]))


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder, its time of change and its hash: equal if none was touched."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }  # fmt: skip
