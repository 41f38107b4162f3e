"""The header of a safetensors file: which tensors it holds, and where.

The library opens each file, which validates its header; the byte ranges, which the library keeps to
itself, are then read from the same header.
"""

from __future__ import annotations

import errno
import json
import os
from typing import NamedTuple

import msgspec

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FileError, SourceError

#: Of a header, as the library has it.
MAX_NBYTES = 100_000_000


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
    """Read and check the header of a file.

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
    try:
        with open(path, "rb") as stream:  # first: its error has a number, the library's has none
            _check(path, path)
            data = stream.read(header_nbytes(stream.read(8)))
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be read", path) from error
    return _tensors(data, path)


def decode_header(
    data: bytes, file_nbytes: int, path: str
) -> tuple[list[StoredTensor], dict[str, str]]:
    """Check a header that has been read, with the eight bytes before it; as `read_header`.

    The library is given a file of this size that holds nothing else: reading the true one through
    a mapping would bring megabytes of it into the page cache. Where the system makes no such file,
    it is the true one all the same.
    """
    try:
        fd = os.memfd_create("safetensors header")
    except OSError:
        _check(path, path)
        return _tensors(data[8:], path)
    try:
        os.write(fd, data)
        os.truncate(fd, file_nbytes)
        _check(f"/proc/self/fd/{fd}", path)
    except OSError:  # a limit on sizes of files, no /proc
        _check(path, path)
    finally:
        os.close(fd)
    return _tensors(data[8:], path)


def header_nbytes(start: bytes) -> int:
    """Length of the header behind the first eight bytes; 0 if that is more than there may be."""
    nbytes = int.from_bytes(start[:8], "little")
    return nbytes if nbytes <= MAX_NBYTES else 0


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


def _check(opened: str, path: str) -> None:
    """Have the library look at it."""
    import safetensors  # noqa: PLC0415

    try:
        with safetensors.safe_open(opened, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise _invalid(path, error) from error


def _tensors(data: bytes, path: str) -> tuple[list[StoredTensor], dict[str, str]]:
    """What a header says, once the library has found it valid."""
    try:
        json.loads(data, object_pairs_hook=_unique)
    except ValueError as error:
        raise _invalid(path, error) from error
    header = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    raw = header.pop("__metadata__", b"null")
    metadata = msgspec.json.decode(raw, type=dict[str, str] | None)
    found = msgspec.json.decode(msgspec.json.encode(header), type=dict[str, _Tensor])
    tensors = []
    for name, tensor in sorted(found.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in DTYPES:
            raise SourceError(f"{path}: tensor {name!r} has the unknown dtype {tensor.dtype!r}")
        begin, end = (8 + len(data) + at for at in tensor.data_offsets)
        tensors.append(StoredTensor(name, tensor.dtype, tensor.shape, begin, end - begin))
    return tensors, metadata or {}


def _invalid(path: str, error: Exception) -> SourceError:
    return SourceError(
        f"{path}: not a valid safetensors file: {error}",
        hint="an interrupted download leaves such files: fetch it again",
    )
