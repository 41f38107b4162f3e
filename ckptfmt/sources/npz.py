"""NumPy's ``.npz``: a zip archive of arrays, read as streams.

A member is inflated once, in order, while its bytes are asked for in about that order by several
threads; what was inflated last is kept for those who come late. Each member's checksum is compared
by zipfile when its end is reached. An array in Fortran order cannot be streamed: it passes through
an unnamed temporary file.
"""

from __future__ import annotations

import os
import tempfile
import threading
import tokenize
import zipfile
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from math import prod
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptfmt.dtypes import from_numpy
from ckptfmt.errors import SourceError, UnsupportedDtypeError, failing_as
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.limits import refuse_dimensions, refuse_irregular
from ckptfmt.sources.strided import copy_bytes, map_elements
from ckptfmt.sources.zips import open_zip
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

#: Members that are open at a time, and bytes that are kept of each.
OPEN_MEMBERS = 4
WINDOW_NBYTES = 64 << 20
_PIECE_NBYTES = 1 << 20


class _Opened(Protocol):
    """Bytes of one member by position."""

    def read_into(self, start: int, buffer: memoryview) -> None: ...


class NpzSource:
    """The arrays of one ``.npz`` file.

    Parameters
    ----------
    folder, file : str
        Where it is, and its name.
    """

    def __init__(self, folder: str, file: str) -> None:
        self.path = os.path.join(folder, file)
        self.tensors: list[TensorSpec] = []
        self.description = Description("npz")
        self._members: list[_Member] = []
        self._opened: OrderedDict[int, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        refuse_irregular(self.path)
        with failing_as(self.path, "cannot be read"):
            self._stream = open(self.path, "rb")  # noqa: SIM115 - closed by close()
            status = os.fstat(self._stream.fileno())
        try:
            self.description.files = [SourceFile(file, status.st_size, status.st_mtime_ns)]
            self._archive = open_zip(self.path, self._stream)
            for info in self._archive.infolist():
                self._add(info)
            largest = sorted((spec.nbytes for spec in self.tensors), reverse=True)[:OPEN_MEMBERS]
            self.description.memory_nbytes = sum(min(n, WINDOW_NBYTES) for n in largest)
        except BaseException:
            self.close()
            raise

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.removesuffix(".npy")
        where = f"{self.path}: array {name!r}"
        try:
            with failing_as(self.path, "cannot be read"), self._archive.open(info) as stream:
                shape, fortran, dtype = _read_header(stream)
                header_nbytes = stream.tell()
        except _DAMAGE as error:
            raise SourceError(f"{where}: {error}") from error
        refuse_dimensions(self.path, name, shape)
        found, wanted = info.file_size - header_nbytes, prod(shape) * dtype.itemsize
        if dtype.hasobject:
            self.description.unsupported[name] = "pickled objects"
            return
        if found != wanted:
            raise SourceError(f"{where} has {found} bytes, {dtype} {list(shape)} needs {wanted}")
        try:
            row = from_numpy(dtype)
        except UnsupportedDtypeError:
            self.description.unsupported[name] = str(dtype)
            return
        self.tensors.append(TensorSpec((name,), row.name, shape))
        self._members.append(_Member(info, header_nbytes, dtype.itemsize, shape, fortran))

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of an array on."""
        try:
            with failing_as(self.path, "cannot be read"):
                self._opened_member(tensor).read_into(start, buffer)
        except _DAMAGE as error:
            name = self.tensors[tensor].names[0]
            raise SourceError(f"{self.path}: array {name!r}: {error}") from error

    def _opened_member(self, tensor: int) -> _Opened:
        member = self._members[tensor]
        with self._lock:
            opened = self._opened.pop(tensor, None)
            if opened is None and member.fortran and sum(n > 1 for n in member.shape) > 1:
                opened = _Spooled(self._archive, member)
            elif opened is None:
                opened = _Streamed(self._archive, member)
            self._opened[tensor] = opened
            if len(self._opened) > OPEN_MEMBERS:
                self._opened.popitem(last=False)
        return opened

    def close(self) -> None:
        """Close the archive. Safe to call twice."""
        self._opened.clear()
        self._stream.close()


@dataclass(frozen=True, slots=True)
class _Member:
    """One array of the archive, and where its elements begin in the inflated member."""

    info: zipfile.ZipInfo
    header_nbytes: int
    itemsize: int
    shape: tuple[int, ...]
    fortran: bool


class _Streamed:
    """A member that is inflated in order; the last `WINDOW_NBYTES` are kept."""

    def __init__(self, archive: zipfile.ZipFile, member: _Member) -> None:
        self._archive = archive
        self._member = member
        self._lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._stream = self._archive.open(self._member.info)
        self._stream.read(self._member.header_nbytes)
        self._kept: deque[bytes] = deque()
        self._begin = self._end = 0  # of what is kept

    def read_into(self, start: int, buffer: memoryview) -> None:
        with self._lock:
            if start < self._begin:
                self._restart()  # somebody was so late that it is gone: once more
            while self._end < start + len(buffer):
                self._read_on()
                while self._end - self._begin > WINDOW_NBYTES and (
                    self._begin + len(self._kept[0]) <= start
                ):
                    self._begin += len(self._kept.popleft())
            at = self._begin
            for piece in self._kept:
                low, high = max(start, at), min(start + len(buffer), at + len(piece))
                if low < high:
                    buffer[low - start : high - start] = memoryview(piece)[low - at : high - at]
                at += len(piece)

    def _read_on(self) -> None:
        piece = self._stream.read(_PIECE_NBYTES)
        if not piece:
            raise EOFError("ends too early")
        self._kept.append(piece)
        self._end += len(piece)


class _Spooled:
    """A member in Fortran order: inflated to a temporary file without a name, and mapped."""

    def __init__(self, archive: zipfile.ZipFile, member: _Member) -> None:
        strides = [member.itemsize]
        for n in member.shape[:-1]:
            strides.append(strides[-1] * n)
        folder = tempfile.gettempdir()
        doing = "cannot hold an array in Fortran order"
        with tempfile.TemporaryFile() as spool:
            with archive.open(member.info) as stream:
                while piece := stream.read(_PIECE_NBYTES):
                    with failing_as(folder, doing):
                        spool.write(piece)
            with failing_as(folder, doing):
                spool.flush()
            self._view: npt.NDArray[Any] = map_elements(
                spool.fileno(), member.header_nbytes, member.itemsize, member.shape, tuple(strides)
            )

    def read_into(self, start: int, buffer: memoryview) -> None:
        copy_bytes(self._view, start, buffer)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, dtype: by numpy's reader, which bounds what it evaluates."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(stream)
    else:  # 3.0 is for names of fields, and arrays with fields are no tensors
        raise ValueError(f"format {version[0]}.{version[1]} of .npy holds no tensors")
    shape, fortran, dtype = found
    return tuple(map(int, shape)), bool(fortran), dtype


#: What reading a damaged member or header may raise, from zipfile, zlib and numpy.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, SyntaxError, OverflowError,
    tokenize.TokenError, RecursionError, NotImplementedError, KeyError,
)  # fmt: skip
