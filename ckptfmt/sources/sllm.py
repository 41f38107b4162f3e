"""Folders of ServerlessLLM Store: ``tensor_index.json``, ``tensor.data_0``, ``tensor.data_1``, ….

The format has no header, magic or checksum. An offset of the index counts through all partitions
one behind the other, so where a partition begins is only known from the sizes of those before it;
that is how ServerlessLLM itself reads, and why a partition that lost bytes shifts all that follow.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from ckptfmt.dtypes import from_torch
from ckptfmt.errors import SourceError, UnsupportedDtypeError
from ckptfmt.index import Nbytes
from ckptfmt.sources.limits import read_index, refuse_dimensions, refuse_outside
from ckptfmt.sources.ranges import RangeSource, Run
from ckptfmt.sources.strided import copy_bytes, map_elements
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

INDEX_FILE = "tensor_index.json"
DATA_FILE = re.compile(r"tensor\.data_\d+")
LOST = (
    "ServerlessLLM's writer loses what is still in its buffer where the file system refuses "
    "unaligned direct writes, and says nothing: save the model again, on tmpfs, or convert the "
    "original"
)


class _Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """What the index tells of a tensor; `nbytes` is of the whole storage, strides of elements."""

    offset: Nbytes
    nbytes: Nbytes
    shape: tuple[Nbytes, ...]
    strides: tuple[Nbytes, ...]
    dtype: str


class SllmSource(RangeSource):
    """Tensors of one folder, or of one rank; the same bytes seen the same way are tied.

    Parameters
    ----------
    folder : str
        Where it is.
    index : str
        ``tensor_index.json``, below `folder`.
    """

    def __init__(self, folder: str, index: str) -> None:
        super().__init__("sllm")
        self._views: dict[int, npt.NDArray[Any]] = {}
        self._starts: list[int] = []
        self._index = os.path.join(folder, index)
        try:
            refuse_outside(folder, index)
            entries = _read_entries(self._index)
            self.open_file(folder, index)
            prefix = index.removesuffix(INDEX_FILE)
            self._open_partitions(folder, prefix, entries)
            for names, entry in _tied(entries):
                self._add_entry(names, entry)
        except BaseException:
            self.close()
            raise
        self._warn_of_views(entries)

    def _open_partitions(self, folder: str, prefix: str, entries: dict[str, _Entry]) -> None:
        """Open partitions until there is no further one; whether they have all bytes."""
        end = max((e.offset + e.nbytes for e in entries.values()), default=0)
        begins = {e.offset for e in entries.values()}
        filled = 0
        for number in count():
            name = f"{prefix}tensor.data_{number}"
            path = os.path.join(folder, name)
            if not os.path.lexists(path) or (filled >= end and number > 0):
                break
            if number > 0 and filled not in begins:
                raise SourceError(
                    f"{path}: begins at byte {filled} by the sizes of the files before it, where "
                    f"no tensor of {INDEX_FILE} does: one of them has lost bytes, or has more",
                    hint=f"an earlier save may have left a longer file. {LOST}",
                )
            refuse_outside(folder, name)
            self.open_file(folder, name)
            self._starts.append(filled)
            filled += self.files[-1].nbytes
        if end > filled:
            self._refuse_short(folder, prefix, entries, filled)

    def _refuse_short(
        self, folder: str, prefix: str, entries: dict[str, _Entry], filled: int
    ) -> None:
        end = max(e.offset + e.nbytes for e in entries.values())
        wanted = f"{INDEX_FILE} has tensors up to byte {end}"
        following = len(self._starts)
        beside = [n for n in os.listdir(os.path.join(folder, prefix)) if DATA_FILE.fullmatch(n)]
        after = any(int(n.rpartition("_")[2]) > following for n in beside)
        # A file that was written whole ends where a tensor of the next one begins.
        whole = filled > 0 and any(e.offset == filled for e in entries.values())
        if after or whole or not following:
            path = os.path.join(folder, f"{prefix}tensor.data_{following}")
            raise SourceError(
                f"{path}: is not there, {wanted}",
                hint="the copy is incomplete: fetch the missing files",
            )
        sizes = ", ".join(f"{os.path.basename(f.path)} has {f.nbytes}" for f in self.files[1:])
        raise SourceError(f"{self._index}: {wanted}, but {sizes} bytes", hint=LOST)

    def _add_entry(self, names: list[str], entry: _Entry) -> None:
        name = names[0]
        refuse_dimensions(self._index, name, entry.shape)
        try:
            row = from_torch(entry.dtype)
        except UnsupportedDtypeError as error:
            raise SourceError(f"{self._index}: tensor {name!r}: {error}") from error
        spec = TensorSpec(tuple(names), row.name, entry.shape)
        itemsize = row.bits // 8
        if row.pack > 1:
            raise SourceError(f"{self._index}: tensor {name!r} has the packed {entry.dtype}")
        if len(entry.strides) != len(entry.shape):
            raise SourceError(
                f"{self._index}: tensor {name!r} has the shape {list(entry.shape)} and the "
                f"strides {list(entry.strides)}"
            )
        if spec.nbytes == 0:
            self.add(names, row.name, entry.shape, [])
            return
        extent = itemsize * (
            1 + sum((n - 1) * step for n, step in zip(entry.shape, entry.strides, strict=True))
        )
        if extent > entry.nbytes:
            raise SourceError(
                f"{self._index}: tensor {name!r} of {entry.dtype} {list(entry.shape)} needs "
                f"{extent} bytes, the index gives it {entry.nbytes}"
            )
        file, offset = self._place(name, entry)
        if _contiguous(entry):
            self.add(names, row.name, entry.shape, [Run(file, offset, spec.nbytes)])
            return
        self._views[len(self.tensors)] = map_elements(
            self.files[file].fd, offset, itemsize, entry.shape,
            tuple(step * itemsize for step in entry.strides),
        )  # fmt: skip
        self.tensors.append(spec)
        self.runs.append(())

    def _place(self, name: str, entry: _Entry) -> tuple[int, int]:
        """The partition that holds an entry, and where in it; no storage goes over its end."""
        number = max(i for i, start in enumerate(self._starts) if start <= entry.offset)
        file = self.files[1 + number]
        offset = entry.offset - self._starts[number]
        if offset + entry.nbytes > file.nbytes:
            raise SourceError(
                f"{file.path}: has {file.nbytes} bytes, tensor {name!r} lies at "
                f"{offset}..{offset + entry.nbytes} of it: bytes of it were lost",
                hint=LOST,
            )
        return 1 + number, offset

    def _warn_of_views(self, entries: dict[str, _Entry]) -> None:
        """Where in its storage a view begins is not recorded; it is taken from the begin on."""
        views = [name for name, entry in entries.items() if _is_view(entry)]
        if views:
            warnings.warn(
                f"{self._index}: {len(views)} tensors, the first {views[0]!r}, are part of a "
                f"larger storage; the format does not tell which part. They are taken from its "
                f"begin, as ServerlessLLM loads them",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on, row-major whatever its strides are."""
        view = self._views.get(tensor)
        if view is None:
            super().read_into(tensor, start, buffer)
        else:
            copy_bytes(view, start, buffer)

    def close(self) -> None:
        """Close the files."""
        self._views.clear()
        super().close()


def _read_entries(path: str) -> dict[str, _Entry]:
    data = read_index(path)
    try:
        entries = msgspec.json.decode(data, type=dict[str, _Entry])
        if data.count(b"[") != 3 * len(entries):  # or a name has a bracket
            json.loads(data, object_pairs_hook=_unique)
    except (msgspec.DecodeError, ValueError) as error:
        raise SourceError(f"{path}: not an index of ServerlessLLM Store: {error}") from error
    if not entries:
        raise SourceError(f"{path}: lists no tensor")
    return entries


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the name {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def _tied(entries: dict[str, _Entry]) -> list[tuple[list[str], _Entry]]:
    """Entries in order of position, with all names of each; empty ones are never tied."""
    names: dict[object, list[str]] = {}
    found: dict[object, _Entry] = {}
    for name, entry in entries.items():
        empty = entry.nbytes == 0 or 0 in entry.shape
        key = name if empty else (entry.offset, entry.shape, entry.strides, entry.dtype)
        names.setdefault(key, []).append(name)
        found.setdefault(key, entry)
    ordered = sorted(found, key=lambda key: found[key].offset)
    return [(names[key], found[key]) for key in ordered]


def _contiguous(entry: _Entry) -> bool:
    expected = 1
    for n, step in zip(reversed(entry.shape), reversed(entry.strides), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


def _is_view(entry: _Entry) -> bool:
    """Whether the storage has more bytes than the tensor reaches."""
    if 0 in entry.shape:
        return False
    steps = zip(entry.shape, entry.strides, strict=True)
    extent = 1 + sum((n - 1) * step for n, step in steps)
    return entry.nbytes > extent * from_torch(entry.dtype).bits // 8
