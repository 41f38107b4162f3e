"""Zip archives that are not trusted: looked at before anything in them is inflated."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from typing import IO, TYPE_CHECKING

from ckptfmt.errors import FileError, SourceError
from ckptfmt.sources.limits import refuse_large, refuse_many

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The records at the end of an archive (APPNOTE, sections 4.3.14 to 4.3.16).
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_MAX_COMMENT_NBYTES = 65535
#: What deflate makes of one byte at most, rounded up.
_MAX_RATIO = 1032


def open_zip(path: str, stream: IO[bytes] | FileSlice) -> zipfile.ZipFile:
    """Open an archive whose members have places of their own, and no sizes that cannot be.

    Parameters
    ----------
    path : str
        For messages.
    stream : file
        The archive, seekable; it stays the caller's.

    Raises
    ------
    SourceError
        Not an archive, cut short, with too many members, overlapping ones, or sizes that lie.
    """
    try:
        _refuse_many_members(path, stream)
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise SourceError(
            f"{path}: not a zip archive, or cut short: {error}",
            hint="an interrupted download leaves such files: fetch it again",
        ) from error
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be read", path) from error
    end = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: -info.header_offset):
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SourceError(f"{path}: {info.filename!r} is packed in a way no checkpoint is")
        if info.flag_bits & 1:
            raise SourceError(f"{path}: {info.filename!r} is encrypted")
        if info.header_offset < 0 or info.header_offset + 30 + info.compress_size > end:
            raise SourceError(
                f"{path}: {info.filename!r} overlaps what follows it in the archive: "
                f"a zip bomb, or damage"
            )
        end = info.header_offset
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.file_size > info.compress_size * (1 if stored else _MAX_RATIO):
            raise SourceError(
                f"{path}: {info.filename!r} claims {info.file_size} bytes, which its "
                f"{info.compress_size} cannot hold"
            )
    return archive


class FileSlice(io.RawIOBase):
    """A part of a file as a file of its own, for reading."""

    def __init__(self, stream: IO[bytes], offset: int, nbytes: int) -> None:
        self._stream, self._offset, self._nbytes = stream, offset, nbytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._nbytes}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._stream.seek(self._offset + self._at)
        data = self._stream.read(min(len(view), max(0, self._nbytes - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _refuse_many_members(path: str, stream: IO[bytes] | FileSlice) -> None:
    """Count the members before an object is made of each; found as Python's zipfile finds them."""
    nbytes = stream.seek(0, os.SEEK_END)
    tail_nbytes = min(nbytes, _END.size + _MAX_COMMENT_NBYTES)
    stream.seek(nbytes - tail_nbytes)
    tail = stream.read(tail_nbytes)
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise zipfile.BadZipFile("no end record")
    directory_nbytes = _END.unpack_from(tail, at)[5]
    end = nbytes - tail_nbytes + at
    if end >= _LOCATOR.size + _END_64.size:
        stream.seek(end - _LOCATOR.size - _END_64.size)
        data = stream.read(_LOCATOR.size + _END_64.size)
        if data[_END_64.size : _END_64.size + 4] == b"PK\6\7" and data[:4] == b"PK\6\6":
            directory_nbytes = _END_64.unpack_from(data)[8]
            end -= _LOCATOR.size + _END_64.size
    refuse_large(path, directory_nbytes)
    stream.seek(max(0, end - directory_nbytes))
    refuse_many(path, stream.read(directory_nbytes).count(b"PK\1\2"))
