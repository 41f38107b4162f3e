"""Bytes of an open checkpoint's tensors by position, verified, from several threads at once."""

from __future__ import annotations

import threading
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import layout
from ckptfmt._core import crc32c
from ckptfmt.errors import ChecksumError, FileError
from ckptfmt.input_file import read_into

if TYPE_CHECKING:
    from ckptfmt.checkpoint_files import CheckpointFiles


class StoredBytes:
    """Reads runs of whole blocks, or parts of them.

    Parameters
    ----------
    files : CheckpointFiles
        Held open by the caller.

    Attributes
    ----------
    read_nbytes : int
        Bytes read from the files so far.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        self.files = files
        self.read_nbytes = 0
        self._lock = threading.Lock()
        count = len(files.index.tensors)
        self._first_extent = np.searchsorted(files.extents.tensor, np.arange(count)).tolist()

    def counted(self) -> StoredBytes:
        """The same, which counts anew what is read: of one load, whatever others do meanwhile."""
        other = copy(self)
        other.read_nbytes, other._lock = 0, threading.Lock()
        return other

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on; every block touched is verified."""
        filled = begin = 0
        for number, extent in enumerate(self.files.index.tensors[tensor].extents):
            if begin + extent.nbytes > start + filled and filled < len(buffer):
                at = start + filled - begin
                nbytes = min(extent.nbytes - at, len(buffer) - filled)
                first = self._first_extent[tensor] + number
                self._read_extent(tensor, first, at, buffer[filled : filled + nbytes])
                filled += nbytes
            begin += extent.nbytes

    def _read_extent(self, tensor: int, extent: int, at: int, buffer: memoryview) -> None:
        """Read a part of an extent: whole blocks straight into the buffer, others by a copy."""
        end, done = at + len(buffer), 0
        total = int(self.files.extents.nbytes[extent])
        while at < end:
            block = at // layout.BLOCK_NBYTES
            low = block * layout.BLOCK_NBYTES
            high = min(low + layout.BLOCK_NBYTES, total)
            nbytes = min(high, end) - at
            if nbytes == high - low:
                self._read_block(tensor, extent, block, buffer[done : done + nbytes])
            else:
                whole = memoryview(bytearray(high - low))
                self._read_block(tensor, extent, block, whole)
                buffer[done : done + nbytes] = whole[at - low : at - low + nbytes]
            at += nbytes
            done += nbytes

    def _read_block(self, tensor: int, extent: int, block: int, buffer: memoryview) -> None:
        extents = self.files.extents
        partition = self.files.partitions[int(extents.partition[extent])]
        offset = int(extents.offset[extent]) + block * layout.BLOCK_NBYTES
        try:
            read_into(partition.fd, buffer, offset)
        except OSError as error:
            raise FileError(error.errno or 5, "cannot be read", partition.path) from error
        with self._lock:
            self.read_nbytes += len(buffer)
        number = int(extents.first_block[extent]) + block
        expected, found = int(self.files.crcs[number]), crc32c(buffer)
        if found != expected:
            name = self.files.index.tensors[tensor].name
            raise ChecksumError(
                f"{partition.path}: tensor {name!r}, bytes {offset}..{offset + len(buffer)} of the "
                f"file: checksum {found:08x}, expected {expected:08x}",
                tensor=name, partition=partition.path, offset=offset, nbytes=len(buffer),
            )  # fmt: skip
