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

from ckptfmt import page_cache
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FileError, SourceError
from ckptfmt.input_file import UnalignedReads, open_direct, read_into
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class SafetensorsSource:
    """Tensors of one or several safetensors files, in the order they lie in them.

    Parameters
    ----------
    folder : str
        Where the files are.
    files : sequence of str
        Their names below it.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        self.tensors: list[TensorSpec] = []
        self.description = Description("safetensors")
        self._fds: list[int] = []
        self._paths: list[str] = []
        self._cold: list[bool] = []
        self._direct_fds: list[int] = []  # -1 where there are no direct reads, or a cached file
        self._unaligned = UnalignedReads()
        self.places: list[tuple[int, int]] = []  # of each tensor: file, offset
        seen: dict[str, str] = {}
        try:
            for file in files:
                self._add(folder, file, seen)
        except BaseException:
            self.close()
            raise

    def _add(self, folder: str, file: str, seen: dict[str, str]) -> None:
        path = os.path.join(folder, file)
        header, data_start = _read_header(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        number = len(self._fds)
        self._fds.append(fd)
        self._paths.append(path)
        cold = page_cache.is_cold(fd)
        self._cold.append(cold)
        self._direct_fds.append(open_direct(path, fd)[0] if cold else -1)
        status = os.fstat(fd)
        self.description.files.append(SourceFile(file, status.st_size, status.st_mtime_ns))
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
            self.tensors.append(TensorSpec((name,), tensor.dtype, tensor.shape))
            self.places.append((number, data_start + tensor.data_offsets[0]))

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on."""
        number, offset = self.places[tensor]
        fd, direct_fd = self._fds[number], self._direct_fds[number]
        try:
            if direct_fd >= 0:
                filled = self._unaligned.read_into(fd, direct_fd, buffer, offset + start)
            else:
                filled = read_into(fd, buffer, offset + start)
        except OSError as error:
            raise FileError(
                error.errno or errno.EIO, "cannot be read", self._paths[number]
            ) from error
        if filled < len(buffer):
            raise SourceError(
                f"{self._paths[number]}: ends inside tensor {self.tensors[tensor].names[0]!r}",
                hint="the file changed while it was being converted",
            )
        if self._cold[number] and direct_fd < 0:
            page_cache.drop(self._fds[number], offset + start, len(buffer))

    def close(self) -> None:
        """Close the files."""
        while self._direct_fds:
            direct_fd = self._direct_fds.pop()
            if direct_fd >= 0:
                os.close(direct_fd)
        while self._fds:
            fd = self._fds.pop()
            if len(self._fds) < len(self._cold) and self._cold[len(self._fds)]:
                page_cache.drop(fd)
            os.close(fd)


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
