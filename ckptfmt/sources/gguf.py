"""GGUF: the tensors that are not quantized, found by the ``gguf`` package.

Quantized ones have no dtype here: they are refused unless the filters leave them all out. Keys and
values become metadata, as texts; long lists, as tokenizers have them, do not.
"""

from __future__ import annotations

import json
import os
import struct
from typing import IO, TYPE_CHECKING, Any

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import MissingDependencyError, SourceError, failing_as
from ckptfmt.index import MAX_DIMS
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
#: What the header may hold: the package makes some objects of each value, also within lists.
MAX_VALUES = 4_000_000
MAX_TEXT_NBYTES = 64 << 20
_COUNTS = struct.Struct("<4sIQQ")
#: Bytes of the types of values; texts and lists have their length in front.
_VALUE_NBYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9


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
        with failing_as(path, "cannot be read"), open(path, "rb") as stream:
            _check_header(stream, path)
        reader = _read(path)
        metadata, lists = _metadata(reader, path)
        split = metadata.get("split.count", "0")
        if split not in (str(files), "0", "1"):
            raise SourceError(
                f"{path}: is one of {split} files that belong together",
                hint="convert the folder that has them all",
            )
        for key, text in metadata.items():
            if not key.startswith("split."):
                self.description.metadata.setdefault(key, text)
        self.description.left_out += [f"{file}: {text}" for text in lists]
        for tensor in sorted(reader.tensors, key=lambda tensor: tensor.data_offset):
            name = tensor.name
            if name in seen:
                raise SourceError(
                    f"{path}: tensor {name!r} is also in {seen[name]}",
                    hint="the folder mixes two checkpoints; convert one file at a time",
                )
            seen[name] = file
            kind = tensor.tensor_type.name
            if kind not in TYPES:
                self.description.unsupported[name] = kind
                continue
            # GGUF counts the fastest dimension first.
            shape = tuple(int(n) for n in reversed(tensor.shape))
            refuse_dimensions(path, name, shape)
            nbytes = DTYPES[TYPES[kind]].nbytes(shape)
            runs = [Run(number, int(tensor.data_offset), nbytes)] if nbytes else []
            self.add((name,), TYPES[kind], shape, runs)


def _metadata(reader: Any, path: str) -> tuple[dict[str, str], list[str]]:
    """Keys and values as texts, and the lists that are too long for that."""
    found: dict[str, str] = {}
    lists: list[str] = []
    try:
        for key, field in reader.fields.items():
            if key.startswith("GGUF."):
                continue
            if field.types[0].name == "ARRAY" and len(field.data) > LONGEST_LIST:
                lists.append(f"{key}, {len(field.data)} values")
                continue
            value = field.contents()
            found[key] = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, IndexError, TypeError) as error:
        raise SourceError(f"{path}: the value of {key!r} cannot be read: {error}") from error
    return found, lists


def _read(path: str) -> Any:
    try:
        import gguf  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"gguf cannot be imported: {error}", hint="pip install gguf"
        ) from error
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise SourceError(
            f"{path}: not a valid GGUF file: {error}",
            hint="an interrupted download leaves such files: fetch it again",
        ) from error


def _check_header(stream: IO[bytes], path: str) -> None:
    """Walk over the header: the package believes its counts, and makes objects of each value."""
    try:
        magic, version, tensors, values = _COUNTS.unpack(stream.read(_COUNTS.size))
        if magic == b"FUGG" or version & 0xFFFF == 0:
            raise ValueError("it is big-endian")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"starts with {magic!r}, version {version}")
        refuse_many(path, tensors)
        left = MAX_VALUES
        for _ in range(values):
            _text(stream)
            left = _skip_value(stream, _integer(stream, 4), left - 1)
        for _ in range(tensors):
            _text(stream)
            dimensions = _integer(stream, 4)
            if dimensions > MAX_DIMS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            stream.seek(8 * dimensions + 12, os.SEEK_CUR)
        end = os.fstat(stream.fileno()).st_size
        if stream.tell() > end:
            raise ValueError(f"the header goes over the end at byte {end}")
    except (ValueError, struct.error) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path}: not a GGUF file that can be read: {error}",
            hint="an interrupted download leaves such files: fetch it again",
        ) from error


def _skip_value(stream: IO[bytes], kind: int, left: int) -> int:
    """Go behind a value; how many more there may be."""
    if left < 0:
        raise ValueError(f"its header has more than {MAX_VALUES} values")
    if kind in _VALUE_NBYTES:
        stream.seek(_VALUE_NBYTES[kind], os.SEEK_CUR)
    elif kind == _TEXT:
        _text(stream)
    elif kind == _LIST:
        inner, count = _integer(stream, 4), _integer(stream, 8)
        left -= count
        if inner == _LIST or left < 0:
            raise ValueError("its header has lists of lists, or too long ones")
        if inner in _VALUE_NBYTES:
            stream.seek(count * _VALUE_NBYTES[inner], os.SEEK_CUR)
            return left
        for _ in range(count):
            _skip_value(stream, inner, left)
    else:
        raise ValueError(f"it has values of the unknown type {kind}")
    return left


def _text(stream: IO[bytes]) -> None:
    nbytes = _integer(stream, 8)
    if nbytes > MAX_TEXT_NBYTES:
        raise ValueError(f"it has a text of {nbytes} bytes")
    stream.seek(nbytes, os.SEEK_CUR)


def _integer(stream: IO[bytes], nbytes: int) -> int:
    data = stream.read(nbytes)
    if len(data) < nbytes:
        raise ValueError("the header goes over its end")
    return int.from_bytes(data, "little")
