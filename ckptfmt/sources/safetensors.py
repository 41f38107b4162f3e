"""safetensors files, single or sharded.

The library opens each file, which validates its header; the byte ranges, which the library keeps to
itself, are then read from the same header.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from typing import TYPE_CHECKING

import msgspec

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FileError, SourceError
from ckptfmt.sources.ranges import RangeSource, Run

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class SafetensorsSource(RangeSource):
    """Tensors of one or several safetensors files, in the order they lie in them.

    Parameters
    ----------
    folder : str
        Where the files are.
    files : sequence of str
        Their names below it.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        super().__init__("safetensors")
        seen: dict[str, str] = {}
        try:
            for file in files:
                self._add_file(folder, file, seen)
        except BaseException:
            self.close()
            raise

    def _add_file(self, folder: str, file: str, seen: dict[str, str]) -> None:
        path = os.path.join(folder, file)
        header, data_start = _read_header(path)
        number = self.open_file(folder, file)
        raw = header.pop("__metadata__", b"null")
        metadata = msgspec.json.decode(raw, type=dict[str, str] | None)
        self.description.metadata.update(metadata or {})
        found = msgspec.json.decode(msgspec.json.encode(header), type=dict[str, _Tensor])
        for name, tensor in sorted(found.items(), key=lambda item: item[1].data_offsets):
            if name in seen:
                raise SourceError(
                    f"{path}: tensor {name!r} is also in {seen[name]}",
                    hint="the folder mixes two checkpoints; convert one file at a time",
                )
            if tensor.dtype not in DTYPES:
                raise SourceError(f"{path}: tensor {name!r} has the unknown dtype {tensor.dtype!r}")
            seen[name] = file
            begin, end = tensor.data_offsets
            run = Run(number, data_start + begin, end - begin)
            self.add((name,), tensor.dtype, tensor.shape, [run])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Decoders keep the last of two equal keys silently; which one is meant, nobody knows."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in its header")
    return found


def _read_header(path: str) -> tuple[dict[str, msgspec.Raw], int]:
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
