"""The metadata of torch's distributed checkpoints, read as plain data and checked.

``.metadata`` is a pickle of a few classes; torch would run whatever it names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ckptfmt import dtypes
from ckptfmt.errors import SourceError, UnsupportedDtypeError, failing_as
from ckptfmt.sources.base import SourceFile
from ckptfmt.sources.limits import (
    refuse_dimensions,
    refuse_irregular,
    refuse_large,
    refuse_many,
    refuse_outside,
)
from ckptfmt.sources.pickles import Record, read_pickle

METADATA_FILE = ".metadata"
_CLASSES = "torch.distributed.checkpoint.metadata"
#: What a metadata file names, of all versions of torch: of torch itself, dtypes and ``Size``.
ALLOWED = {
    ("torch", "*"), ("torch.serialization", "_get_layout"), (_CLASSES, "*"),
    ("torch.distributed._shard.sharded_tensor.metadata", "*"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"), ("pathlib", "Path"),
    ("collections", "OrderedDict"),
}  # fmt: skip

Size = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor, and the archive that holds it: file, offset and bytes there."""

    offsets: Size
    sizes: Size
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tensor: its dtype, its shape as torch counts it, the pieces that fill it."""

    dtype: str
    shape: Size
    pieces: list[Piece]


class DcpMetadata:
    """What a folder holds.

    Parameters
    ----------
    folder : str
        Where ``.metadata`` is.

    Attributes
    ----------
    tensors : dict of str to Pieces
        All that can be stored.
    unsupported : dict of str to str
        The rest, and what it is.
    files : list of SourceFile
        The metadata and the files it names.

    Raises
    ------
    SourceError
        It is damaged, names code, or says what cannot be.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, METADATA_FILE)
        self.tensors: dict[str, Pieces] = {}
        self.unsupported: dict[str, str] = {}
        self.files: list[SourceFile] = []
        found = self._read()
        try:
            self._check(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{self.path}: not a distributed checkpoint's metadata: {error}"
            ) from error

    def _read(self) -> Any:
        refuse_irregular(self.path)
        if not os.path.exists(self.path):
            raise SourceError(
                f"{self.path}: is not there",
                hint="it is written last: the save was cut off, or the copy is incomplete",
            )
        refuse_outside(self.folder, METADATA_FILE)
        with failing_as(self.path, "cannot be read"), open(self.path, "rb") as stream:
            status = os.fstat(stream.fileno())
            refuse_large(self.path, status.st_size)
            data = stream.read()
        self.files.append(SourceFile(METADATA_FILE, status.st_size, status.st_mtime_ns))
        return read_pickle(data, self.path, ALLOWED)

    def _check(self, found: Any) -> None:
        fields = _state(found, "Metadata")
        entries = fields["state_dict_metadata"]
        refuse_many(self.path, len(entries))
        stored: dict[tuple[str, Size], dict[str, Any]] = {}
        for record, value in fields["storage_data"].items():
            key = _state(record, "MetadataIndex")
            if key.get("offset") is not None:  # else an object that is no tensor
                stored[key["fqn"], _size(key["offset"])] = _state(value, "_StorageInfo")
        file_nbytes = self._look_at_files({info["relative_path"] for info in stored.values()})
        for name, record in entries.items():
            if record.name.endswith(".BytesStorageMetadata"):
                self.unsupported[name] = "objects that are no tensors"
                continue
            entry = _state(record, "TensorStorageMetadata")
            dtype, shape = _dtype(entry["properties"]), _size(entry["size"])
            refuse_dimensions(self.path, name, shape)
            try:
                row = dtypes.from_torch(dtype)
            except UnsupportedDtypeError:
                self.unsupported[name] = dtype
                continue
            pieces = []
            for item in entry["chunks"]:
                chunk = _state(item, "ChunkStorageMetadata")
                offsets, sizes = _size(chunk["offsets"]), _size(chunk["sizes"])
                info = stored.get((name, offsets))
                if info is None:
                    raise ValueError(f"the piece of {name!r} at {list(offsets)} is in no file")
                least = prod(sizes) * row.bits * row.pack // 8
                pieces.append(self._piece(name, offsets, sizes, info, file_nbytes, least))
            self._refuse_gaps(name, shape, pieces)
            self.tensors[name] = Pieces(row.name, shape, pieces)

    def _look_at_files(self, names: set[str]) -> dict[str, int]:
        """Sizes of the files that are named, all of which must be in the folder."""
        found = {}
        for name in sorted(names):
            if os.path.basename(name) != name:
                raise SourceError(f"{self.path}: names {name!r}, which is outside its folder")
            path = os.path.join(self.folder, name)
            if not os.path.isfile(path):
                raise SourceError(
                    f"{path}: is not there, and {METADATA_FILE} names it",
                    hint="the copy is incomplete: fetch the files of all ranks",
                )
            refuse_outside(self.folder, name)
            status = os.stat(path)
            found[name] = status.st_size
            self.files.append(SourceFile(name, status.st_size, status.st_mtime_ns))
        return found

    def _piece(
        self, name: str, offsets: Size, sizes: Size, info: dict[str, Any],
        file_nbytes: dict[str, int], least: int,
    ) -> Piece:  # fmt: skip
        file, offset, nbytes = info["relative_path"], info["offset"], info["length"]
        path = os.path.join(self.folder, file)
        if info.get("transform_descriptors"):
            raise SourceError(
                f"{path}: tensor {name!r} is compressed by an extension of torch",
                hint="save it without extensions",
            )
        if offset < 0 or nbytes < 0 or offset + nbytes > file_nbytes[file]:
            raise SourceError(
                f"{path}: a piece of tensor {name!r} lies at {offset}..{offset + nbytes}, the file "
                f"ends at {file_nbytes[file]}",
                hint="it was cut short: fetch it again",
            )
        if nbytes < least:
            raise SourceError(
                f"{path}: a piece of tensor {name!r} has {nbytes} bytes, it needs {least}"
            )
        return Piece(offsets, sizes, file, offset, nbytes)

    def _refuse_gaps(self, name: str, shape: Size, pieces: list[Piece]) -> None:
        """The pieces must fill the tensor, each part of it once: nobody else looks."""
        inside = all(
            len(p.offsets) == len(p.sizes) == len(shape)
            and all(
                low >= 0 and n >= 0 and low + n <= end
                for low, n, end in zip(p.offsets, p.sizes, shape, strict=True)
            )
            for p in pieces
        )
        if not inside or sum(prod(p.sizes) for p in pieces) != prod(shape):
            raise SourceError(f"{self.path}: the pieces of tensor {name!r} do not fill it")
        full = [p for p in pieces if prod(p.sizes)]
        low = np.array([p.offsets for p in full], np.int64).reshape(len(full), len(shape))
        high = low + np.array([p.sizes for p in full], np.int64).reshape(low.shape)
        for i in range(len(full) - 1):
            meets = (low[i + 1 :] < high[i]) & (high[i + 1 :] > low[i])
            if meets.all(axis=1).any():
                raise SourceError(f"{self.path}: pieces of tensor {name!r} overlap")


def _state(record: Any, kind: str) -> dict[str, Any]:
    """The fields of a record that must be of a class of this name."""
    if not isinstance(record, Record) or not record.name.endswith(f".{kind}"):
        found = record.name if isinstance(record, Record) else type(record).__name__
        raise TypeError(f"a {found} where a {kind} should be")
    if not isinstance(record.state, dict):
        raise TypeError(f"a {kind} without fields")
    return record.state


def _size(value: Any) -> Size:
    """A ``torch.Size``, which is pickled as a call with a tuple."""
    if isinstance(value, Record) and value.name == "torch.Size" and len(value.arguments) == 1:
        (value,) = value.arguments
    if not isinstance(value, tuple) or not all(type(n) is int for n in value):
        raise TypeError(f"{value!r} where a size should be")
    return value


def _dtype(properties: Any) -> str:
    """The dtype's name, from the state of a ``TensorProperties``: a tuple, or its fields."""
    state = properties.state
    value = state[0] if isinstance(state, tuple) else state["dtype"]
    if not (isinstance(value, type) and issubclass(value, Record)):
        raise TypeError(f"{value!r} where a dtype should be")
    return value.name
