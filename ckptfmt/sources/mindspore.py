"""MindSpore's ``.ckpt``: a protobuf message ``Checkpoint``, one entry behind the other.

Its fields, as MindSpore's ``checkpoint.proto`` has them: ``Checkpoint.value`` 1, repeated;
``Value.tag`` 1, ``.tensor`` 2, ``.maptensor`` 3; ``Tensor.dims`` 1, repeated, ``.tensor_type`` 2,
``.tensor_content`` 3. A large tensor is cut into several entries of the same tag, one after the
other, each with the shape of the whole. ``save_checkpoint(crc_check=True)`` puts a checksum of all
that behind them.
"""

from __future__ import annotations

import os
import zlib
from typing import IO, NamedTuple

from ckptfmt import page_cache
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import SourceError, failing_as
from ckptfmt.index import MAX_DIMS
from ckptfmt.sources.limits import refuse_dimensions, refuse_many
from ckptfmt.sources.protobuf import Field, fields, integers, read_bytes
from ckptfmt.sources.ranges import RangeSource, Run

#: MindSpore's names of dtypes.
TYPES = {
    "Bool": "BOOL", "Int8": "I8", "UInt8": "U8", "Int16": "I16", "UInt16": "U16", "Int32": "I32",
    "UInt32": "U32", "Int64": "I64", "UInt64": "U64", "Float16": "F16", "BFloat16": "BF16",
    "Float32": "F32", "Float64": "F64", "Complex64": "C64", "Complex128": "C128",
}  # fmt: skip
_NAME_NBYTES = 1 << 16
_TEXT_NBYTES = 1 << 20
#: What ``crc_check`` puts at the end: these letters and ten digits in base 256, highest first.
_CRC_MARK, _CRC_NBYTES = b"crc_num", 10
_CHUNK_NBYTES = 4 << 20


class _Entry(NamedTuple):
    """One entry: a tensor, or a piece of one."""

    name: str
    kind: str
    shape: tuple[int, ...]
    run: Run


class MindsporeSource(RangeSource):
    """The parameters of one file; texts among them become metadata.

    Parameters
    ----------
    folder, file : str
        Where it is, and its name.
    """

    def __init__(self, folder: str, file: str) -> None:
        super().__init__("mindspore")
        self.path = os.path.join(folder, file)
        try:
            self.open_file(folder, file)
            with failing_as(self.path, "cannot be read"), open(self.path, "rb") as stream:
                end = self._end(stream)
                try:
                    self._add_all(stream, end)
                except (ValueError, UnicodeDecodeError) as error:
                    if isinstance(error, SourceError):
                        raise
                    raise SourceError(
                        f"{self.path}: not a MindSpore checkpoint, or cut short: {error}",
                        hint="an encrypted one has to be decrypted by MindSpore first",
                    ) from error
            if not self.tensors and not self.description.unsupported:
                raise SourceError(f"{self.path}: holds no parameter")
        except BaseException:
            self.close()
            raise

    def _end(self, stream: IO[bytes]) -> int:
        """Where the message ends; the checksum behind it, if there is one, must agree."""
        tail_nbytes = len(_CRC_MARK) + _CRC_NBYTES
        end = self.files[0].nbytes - tail_nbytes
        if end < 0:
            return self.files[0].nbytes
        stream.seek(end)
        tail = stream.read(tail_nbytes)
        if not tail.startswith(_CRC_MARK):
            return self.files[0].nbytes
        expected = int.from_bytes(tail[len(_CRC_MARK) :], "big")
        stream.seek(0)
        found = 0
        for start in range(0, end, _CHUNK_NBYTES):
            found = zlib.crc32(stream.read(min(_CHUNK_NBYTES, end - start)), found)
            if self.files[0].cold:
                page_cache.drop(stream.fileno(), start, _CHUNK_NBYTES)
        if found != expected:
            raise SourceError(
                f"{self.path}: checksum {found:08x}, expected {expected:08x}",
                hint="the file is damaged: fetch it again",
            )
        return end

    def _add_all(self, stream: IO[bytes], end: int) -> None:
        pieces: list[_Entry] = []
        seen: set[str] = set()
        for count, value in enumerate(fields(stream, 0, end), 1):
            refuse_many(self.path, count)
            entry = self._entry(stream, value)
            if pieces and entry.name != pieces[0].name:
                self._add_pieces(stream, pieces, seen)
                pieces = []
            pieces.append(entry)
        if pieces:
            self._add_pieces(stream, pieces, seen)

    def _entry(self, stream: IO[bytes], value: Field) -> _Entry:
        if value.number != 1 or value.value is not None:
            raise ValueError(f"no entry begins at byte {value.offset}")
        name, tensor = "", None
        for field in fields(stream, value.offset, value.offset + value.nbytes):
            if field.number == 1:
                name = read_bytes(stream, field, _NAME_NBYTES).decode()
            elif field.number == 2:
                tensor = field
        if tensor is None:
            return _Entry(name, "a table of embeddings", (), Run(0, 0, 0))
        kind, dims, content = "", [], None
        for field in fields(stream, tensor.offset, tensor.offset + tensor.nbytes):
            if field.number == 1:
                dims += integers(stream, field, 10 * MAX_DIMS)
            elif field.number == 2:
                kind = read_bytes(stream, field, _NAME_NBYTES).decode()
            elif field.number == 3 and field.value is None:
                content = field
            if len(dims) > MAX_DIMS:
                raise ValueError(f"{name!r} has more than {MAX_DIMS} dimensions")
        if content is None:
            raise ValueError(f"{name!r} has no content")
        shape = tuple(n - (1 << 64) if n >> 63 else n for n in dims)
        return _Entry(name, kind, shape, Run(0, content.offset, content.nbytes))

    def _add_pieces(self, stream: IO[bytes], pieces: list[_Entry], seen: set[str]) -> None:
        """All entries of one tag as one tensor, as MindSpore joins them."""
        name, kind, shape, _ = pieces[0]
        if name in seen:
            raise ValueError(f"{name!r} stands twice, not one after the other")
        seen.add(name)
        if any((p.kind, p.shape) != (kind, shape) for p in pieces):
            raise ValueError(f"the pieces of {name!r} have different shapes or dtypes")
        runs = [piece.run for piece in pieces]
        nbytes = sum(run.nbytes for run in runs)
        if kind == "str":
            field = Field(3, None, runs[0].offset, runs[0].nbytes)
            text = read_bytes(stream, field, _TEXT_NBYTES).decode("utf-32-le").rstrip("\0")
            self.description.metadata[name] = text
            return
        if kind not in TYPES:
            self.description.unsupported[name] = kind
            return
        refuse_dimensions(self.path, name, shape)
        if shape == (0,) and nbytes:
            shape = ()  # so older versions wrote a scalar, and so all of them read it
        if nbytes == 0 and DTYPES[TYPES[kind]].nbytes(shape) == 0:
            runs = []
        self.add((name,), TYPES[kind], shape, runs)
