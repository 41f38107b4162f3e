"""A format-1 checkpoint as a source: to cast it, to cut it differently, to write it back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt import layout
from ckptfmt._core import crc32c
from ckptfmt.checkpoint import Checkpoint
from ckptfmt.errors import ChecksumError, FileError
from ckptfmt.input_file import read_into
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.folder import sidecars_below
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    from ckptfmt.index import Extent


class StoredSource:
    """Reads verified bytes of a checkpoint, in runs of whole blocks or parts of them.

    Parameters
    ----------
    path : str
        The folder.
    """

    def __init__(self, path: str) -> None:
        self.checkpoint = Checkpoint(path)
        index = self.checkpoint.index
        self.tensors = [TensorSpec(t.names, t.dtype, t.shape) for t in index.tensors]
        self.description = Description("ckptfmt", metadata=dict(index.metadata))
        self.description.provenance = {"id": index.id, "from": index.provenance}
        for partition in self.checkpoint.files.partitions:
            status = os.fstat(partition.fd)
            name = os.path.basename(partition.path)
            self.description.files.append(SourceFile(name, status.st_size, status.st_mtime_ns))
        own = {layout.INDEX_FILE, layout.SUMS_FILE, *(p.file for p in index.partitions)}
        self.description.sidecars = sidecars_below(path, own)[0]

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on; every block touched is verified."""
        filled = begin = 0
        for extent in self.checkpoint.index.tensors[tensor].extents:
            if begin + extent.nbytes > start + filled and filled < len(buffer):
                at = start + filled - begin
                nbytes = min(extent.nbytes - at, len(buffer) - filled)
                self._read_extent(tensor, extent, at, buffer[filled : filled + nbytes])
                filled += nbytes
            begin += extent.nbytes

    def _read_extent(self, tensor: int, extent: Extent, at: int, buffer: memoryview) -> None:
        """Read a part of an extent: whole blocks straight into the buffer, others by a copy."""
        end, done = at + len(buffer), 0
        while at < end:
            block = at // layout.BLOCK_NBYTES
            low = block * layout.BLOCK_NBYTES
            high = min(low + layout.BLOCK_NBYTES, extent.nbytes)
            nbytes = min(high, end) - at
            if nbytes == high - low:
                self._read_block(tensor, extent, block, buffer[done : done + nbytes])
            else:
                whole = memoryview(bytearray(high - low))
                self._read_block(tensor, extent, block, whole)
                buffer[done : done + nbytes] = whole[at - low : at - low + nbytes]
            at += nbytes
            done += nbytes

    def _read_block(self, tensor: int, extent: Extent, block: int, buffer: memoryview) -> None:
        partition = self.checkpoint.files.partitions[extent.partition]
        offset = extent.offset + block * layout.BLOCK_NBYTES
        try:
            read_into(partition.fd, buffer, offset)
        except OSError as error:
            raise FileError(error.errno or 5, "cannot be read", partition.path) from error
        extents = self.checkpoint.files.extents
        mine = extents.of_tensors([tensor])
        number = next(
            int(extents.first_block[i]) for i in mine if extents.partition[i] == extent.partition
        )
        expected, found = int(self.checkpoint.files.crcs[number + block]), crc32c(buffer)
        if found != expected:
            name = self.tensors[tensor].names[0]
            raise ChecksumError(
                f"{partition.path}: tensor {name!r}, bytes {offset}..{offset + len(buffer)} of the "
                f"file: checksum {found:08x}, expected {expected:08x}",
                tensor=name, partition=partition.path, offset=offset, nbytes=len(buffer),
            )  # fmt: skip

    def close(self) -> None:
        """Close the checkpoint."""
        self.checkpoint.close()
