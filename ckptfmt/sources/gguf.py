"""GGUF: the tensors that are not quantized; the ``gguf`` package tells the types of the format.

Quantized ones have no dtype here: they are refused unless the filters leave them all out. Keys and
values become metadata, as texts; long lists, as tokenizers have them, do not.

The header is walked here and not by the package's reader, which believes every count and makes more
than a kilobyte of objects of each token of a vocabulary.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import MissingDependencyError, SourceError, failing_as
from ckptfmt.index import MAX_DIMS
from ckptfmt.layout import align_up
from ckptfmt.sources.limits import refuse_dimensions, refuse_many
from ckptfmt.sources.ranges import RangeSource, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

#: GGML's names of types that are no blocks.
TYPES = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64",
    "I8": "I8", "I16": "I16", "I32": "I32", "I64": "I64",
}  # fmt: skip
#: Values of a list that becomes metadata.
LONGEST_LIST = 64
#: What a header may hold at most.
MAX_KEYS = 1 << 16
MAX_LIST_VALUES = 1 << 24
MAX_TEXT_NBYTES = 16 << 20
#: Values of fixed length, by GGUF's name of their type.
_CODES = {
    "UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "UINT32": "I", "INT32": "i",
    "UINT64": "Q", "INT64": "q", "FLOAT32": "f", "FLOAT64": "d", "BOOL": "?",
}  # fmt: skip
VERSIONS = (2, 3)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One entry of the header; the offset counts from where the data begins."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int


@dataclass(slots=True)
class _Header:
    """What stands before the data, and where that begins."""

    values: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)
    tensors: list[_Tensor] = field(default_factory=list)
    end: int = 0


class GgufSource(RangeSource):
    """The tensors of one file, or of all files of a split one.

    Parameters
    ----------
    folder : str
        Where the files are.
    files : sequence of str
        Their names below it.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        super().__init__("gguf")
        seen: dict[str, str] = {}
        try:
            for file in files:
                self._add_file(folder, file, len(files), seen)
        except BaseException:
            self.close()
            raise

    def _add_file(self, folder: str, file: str, files: int, seen: dict[str, str]) -> None:
        path = os.path.join(folder, file)
        number = self.open_file(folder, file)
        header = _read_header(path)
        split = header.values.get("split.count", 0)
        if split not in (files, 0, 1):
            raise SourceError(
                f"{path}: is one of {split} files that belong together",
                hint="convert the folder that has them all",
            )
        for key, value in header.values.items():
            if not key.startswith("split."):
                text = value if isinstance(value, str) else json.dumps(value)
                self.description.metadata.setdefault(key, text)
        left_out = [f"{file}: {key}, {count} values" for key, count in header.lists.items()]
        self.description.left_out += left_out
        for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
            name = tensor.name
            if name in seen:
                raise SourceError(
                    f"{path}: tensor {name!r} is also in {seen[name]}",
                    hint="the folder mixes two checkpoints; convert one file at a time",
                )
            seen[name] = file
            if tensor.kind not in TYPES:
                self.description.unsupported[name] = tensor.kind
                continue
            refuse_dimensions(path, name, tensor.shape)
            nbytes = DTYPES[TYPES[tensor.kind]].nbytes(tensor.shape)
            runs = [Run(number, header.end + tensor.offset, nbytes)] if nbytes else []
            self.add((name,), TYPES[tensor.kind], tensor.shape, runs)


def _read_header(path: str) -> _Header:
    gguf = _import_gguf()
    try:
        with failing_as(path, "cannot be read"), open(path, "rb") as stream:
            return _Walk(stream, path, gguf).header
    except (ValueError, struct.error, OverflowError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path}: not a GGUF file that can be read: {error}",
            hint="an interrupted download leaves such files: fetch it again",
        ) from error


class _Walk:
    """Over the header of one file, whose counts are not believed."""

    def __init__(self, stream: IO[bytes], path: str, gguf: Any) -> None:
        self.stream = stream
        self.gguf = gguf
        self.header = _Header()
        magic = stream.read(4)
        version, tensors, values = self._fixed("IQQ")
        if magic == b"FUGG" or version & 0xFFFF == 0:
            raise ValueError("it is big-endian")
        if magic != b"GGUF" or version not in VERSIONS:
            raise ValueError(f"starts with {magic!r}, version {version}")
        refuse_many(path, tensors)
        if values > MAX_KEYS:
            raise ValueError(f"it has {values} keys, at most {MAX_KEYS}")
        for _ in range(values):
            self._key()
        for _ in range(tensors):
            self.header.tensors.append(self._tensor())
        alignment = self.header.values.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its alignment is {alignment!r}, expected a power of two")
        self.header.end = align_up(stream.tell(), alignment)

    def _fixed(self, codes: str) -> tuple[Any, ...]:
        form = struct.Struct("<" + codes)
        return form.unpack(self.stream.read(form.size))

    def _kind(self) -> str:
        name: str = self.gguf.GGUFValueType(self._fixed("I")[0]).name
        return name

    def _text(self) -> str:
        (nbytes,) = self._fixed("Q")
        if nbytes > MAX_TEXT_NBYTES:
            raise ValueError(f"it has a text of {nbytes} bytes")
        data = self.stream.read(nbytes)
        if len(data) < nbytes:
            raise ValueError("the header goes over the file's end")
        return data.decode()

    def _value(self, kind: str) -> Any:
        return self._text() if kind == "STRING" else self._fixed(_CODES[kind])[0]

    def _key(self) -> None:
        key, kind = self._text(), self._kind()
        if key in self.header.values or key in self.header.lists:
            raise ValueError(f"the key {key!r} stands twice")
        if kind != "ARRAY":
            self.header.values[key] = self._value(kind)
            return
        kind = self._kind()
        (count,) = self._fixed("Q")
        if kind == "ARRAY" or count > MAX_LIST_VALUES:
            raise ValueError(f"the list {key!r} is one of lists, or has {count} values")
        if count <= LONGEST_LIST:
            self.header.values[key] = [self._value(kind) for _ in range(count)]
            return
        self.header.lists[key] = count
        if kind in _CODES:
            self._skip(count * struct.calcsize("<" + _CODES[kind]))
        else:
            for _ in range(count):
                self._skip(self._fixed("Q")[0])

    def _skip(self, nbytes: int) -> None:
        # Never far beyond the end: what is read there is missed at once.
        self.stream.seek(min(nbytes, 1 << 48), os.SEEK_CUR)

    def _tensor(self) -> _Tensor:
        name = self._text()
        (count,) = self._fixed("I")
        if count > MAX_DIMS:
            raise ValueError(f"tensor {name!r} has {count} dimensions")
        shape = self._fixed(f"{count}Q")
        kind, offset = self._fixed("IQ")
        # GGUF counts the fastest dimension first.
        return _Tensor(name, self.gguf.GGMLQuantizationType(kind).name, shape[::-1], offset)


def _import_gguf() -> Any:
    try:
        import gguf  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"gguf cannot be imported: {error}", hint="pip install gguf"
        ) from error
    return gguf
