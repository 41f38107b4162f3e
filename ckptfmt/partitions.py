"""The files of a checkpoint, one by one: opened below its folder, read, and checked."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt import _core, layout
from ckptfmt import index as index_module
from ckptfmt.errors import FileError, FormatError, NotFoundError
from ckptfmt.input_file import SECTOR, open_direct, read_into
from ckptfmt.layout import Header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckptfmt.index import Index


@dataclass(slots=True)
class Partition:
    """One open partition.

    Attributes
    ----------
    path : str
        For messages; never opened again.
    fd : int
        Reads through the page cache.
    direct_fd : int
        Reads past it, or -1.
    no_direct_reason : str
        Why there are no direct reads; empty if there are.
    file_nbytes : int
        Size of the file.
    """

    path: str
    fd: int
    direct_fd: int
    no_direct_reason: str
    file_nbytes: int

    @classmethod
    def open(cls, dir_fd: int, folder: str, file: str) -> Partition:
        """Open for both kinds of reads; direct ones are tried, not guessed from the file system."""
        path = os.path.join(folder, file)
        fd = open_file(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd, path)
        try:
            size = os.fstat(fd).st_size
            direct_fd, reason = open_direct(file, fd, dir_fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, direct_fd, reason, size)

    def read(self, offset: int, nbytes: int) -> memoryview:
        """Read some bytes of metadata, past the page cache if possible: no read-ahead is caused."""
        start = offset - offset % SECTOR
        room = layout.align_up(offset + nbytes - start, SECTOR)
        buffer = _core.Memory(room).region(0, room, room)
        view, filled = memoryview(buffer), 0
        try:
            if self.direct_fd >= 0:
                filled = _core.pread_into(self.direct_fd, view, start)
            end = min(offset + nbytes, self.file_nbytes) - start
            if filled < end:  # no direct reads, or a short one: the page cache knows no alignment
                filled += read_into(self.fd, view[filled:end], start + filled)
        except OSError as error:
            raise FileError(error.errno or errno.EIO, "cannot be read", self.path) from error
        return view[offset - start : min(filled, offset - start + nbytes)]

    def close(self) -> None:
        for name in ("fd", "direct_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)


def open_file(file: str, flags: int, dir_fd: int, path: str) -> int:
    """Open below a folder; a missing file is named as the checkpoint's gap that it is."""
    try:
        if not stat.S_ISREG(os.stat(file, dir_fd=dir_fd).st_mode):
            raise FormatError(f"{path}: not a regular file")  # a pipe would be waited for
        return os.open(file, flags, dir_fd=dir_fd)
    except FileNotFoundError as error:
        raise NotFoundError(
            errno.ENOENT, "a file of this checkpoint is missing", path,
            hint="copy the checkpoint again; ckptfmt verify lists what else is wrong",
        ) from error  # fmt: skip
    except OSError as error:
        hint = "raise the limit: ulimit -n" if error.errno == errno.EMFILE else None
        raise FileError(error.errno or errno.EIO, "cannot be opened", path, hint=hint) from error


def read_small(dir_fd: int, folder: str, file: str) -> bytes:
    """Read a whole file of the folder that may not be larger than an index."""
    path, limit = os.path.join(folder, file), index_module.MAX_INDEX_NBYTES
    fd = open_file(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd, path)
    try:
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(min(os.fstat(fd).st_size, limit) + 1)
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be read", path) from error
    if len(data) > limit:
        raise FormatError(f"{path}: more than the {limit} bytes that are allowed")
    return data


def read_index(dir_fd: int, folder: str) -> bytes:
    """The bytes of the index, unchecked."""
    try:
        return read_small(dir_fd, folder, layout.INDEX_FILE)
    except NotFoundError:
        raise _not_a_checkpoint(folder, dir_fd) from None


def check_index_sum(data: bytes, sums: bytes, where: str) -> None:
    """Compare the index with its line in the list of sums."""
    digest = hashlib.sha256(data).hexdigest()
    if f"{digest}  {layout.INDEX_FILE}".encode() not in sums.split(b"\n"):
        raise FormatError(
            f"{where}: its SHA-256 is {digest}, {layout.SUMS_FILE} says otherwise",
            hint="the index or the list of sums is damaged or was edited: copy them again",
        )


def expected_header(index: Index, number: int) -> Header:
    """What the header of a partition must be by the index."""
    entry = index.partitions[number]
    return Header(
        index.alignment, bytes.fromhex(index.id), number, len(index.partitions),
        entry.payload_nbytes, entry.table_nbytes,
    )  # fmt: skip


def check_partition(partition: Partition, expected: Header) -> npt.NDArray[np.uint32]:
    """Compare a partition's size and header with what the index says; return its checksums."""
    path, found_nbytes = partition.path, partition.file_nbytes
    if found_nbytes != expected.file_nbytes:
        raise FormatError(
            f"{path}: {found_nbytes} bytes, the index says {expected.file_nbytes}",
            hint="the file was cut short or replaced: copy it again"
            if found_nbytes < expected.file_nbytes
            else "the file belongs to another checkpoint: copy it again",
        )
    header = Header.unpack(partition.read(0, layout.HEADER_NBYTES), path)
    if header.checkpoint_id != expected.checkpoint_id:
        raise FormatError(
            f"{path}: belongs to checkpoint {header.checkpoint_id.hex()}, "
            f"the index is of {expected.checkpoint_id.hex()}",
            hint="files of two checkpoints are mixed: copy the folder again as a whole",
        )
    if header != expected:
        raise FormatError(f"{path}: the header is {header}, expected {expected}")
    table = partition.read(expected.alignment + expected.payload_nbytes, expected.table_nbytes)
    if len(table) != expected.table_nbytes:
        raise FormatError(f"{path}: the checksum table ends early")
    return layout.unpack_table(table, path)


def open_folder(path: str) -> int:
    """Open a checkpoint's folder; what is not there or no folder is named as such."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        hint = None
        if os.path.isdir(path + ".partial"):
            hint = "a conversion to it has not finished: ckptfmt convert --resume goes on with it"
        elif os.path.isdir(path + ".replaced"):
            hint = f"replacing it was cut off: mv {path}.replaced {path} brings the old one back"
        raise NotFoundError(errno.ENOENT, "no such checkpoint", path, hint=hint) from error
    except NotADirectoryError as error:
        raise FormatError(
            f"{path}: not a folder; a checkpoint is the folder that holds {layout.INDEX_FILE}"
        ) from error
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be opened", path) from error


def _not_a_checkpoint(path: str, dir_fd: int) -> FormatError:
    names = os.listdir(dir_fd)
    weights = [n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth"))]
    hint = f"convert it first: ckptfmt convert {path} {path.rstrip('/')}.ckpt" if weights else None
    return FormatError(f"{path}: not a ckptfmt checkpoint: no {layout.INDEX_FILE} in it", hint=hint)
