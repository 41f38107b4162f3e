"""The header of a safetensors file: which tensors it holds, and where.

The library opens each file, which validates its header; the byte ranges, which the library keeps to
itself, are then read from the same header.
"""

from __future__ import annotations

import errno
import json
import struct
from typing import NamedTuple

import msgspec

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FileError, SourceError


class StoredTensor(NamedTuple):
    """One tensor of a file; `offset` counts from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: str) -> tuple[list[StoredTensor], dict[str, str]]:
    """Read and check a header.

    Returns
    -------
    tensors : list of StoredTensor
        In the order they lie in the file, which they tile.
    metadata : dict of str to str
        The file's own key-value pairs.

    Raises
    ------
    SourceError
        It is no safetensors file, cut short, or its header contradicts itself.
    """
    header, data_start = _read(path)
    raw = header.pop("__metadata__", b"null")
    metadata = msgspec.json.decode(raw, type=dict[str, str] | None)
    found = msgspec.json.decode(msgspec.json.encode(header), type=dict[str, _Tensor])
    tensors = []
    for name, tensor in sorted(found.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in DTYPES:
            raise SourceError(f"{path}: tensor {name!r} has the unknown dtype {tensor.dtype!r}")
        begin, end = tensor.data_offsets
        tensors.append(
            StoredTensor(name, tensor.dtype, tensor.shape, data_start + begin, end - begin)
        )
    return tensors, metadata or {}


def twice(path: str, name: str, other: str) -> SourceError:
    """The error for a tensor that another file holds, too."""
    return SourceError(
        f"{path}: tensor {name!r} is also in {other}",
        hint="the folder mixes two checkpoints; name one file at a time",
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Decoders keep the last of two equal keys silently; which one is meant, nobody knows."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in its header")
    return found


def _read(path: str) -> tuple[dict[str, msgspec.Raw], int]:
    import safetensors  # noqa: PLC0415

    try:
        with open(path, "rb") as stream:  # first: its error has a number, the library's has none
            with safetensors.safe_open(path, framework="numpy"):
                pass
            (nbytes,) = struct.unpack("<Q", stream.read(8))
            data = stream.read(nbytes)
        json.loads(data, object_pairs_hook=_unique)
    except (safetensors.SafetensorError, ValueError) as error:
        raise SourceError(
            f"{path}: not a valid safetensors file: {error}",
            hint="an interrupted download leaves such files: fetch it again",
        ) from error
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be read", path) from error
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw]), 8 + nbytes
