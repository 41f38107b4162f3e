"""The opened files of a checkpoint: its folder and every partition, checked and held.

A folder that is replaced while it is open keeps serving its old bytes: everything is opened at
once, relative to the folder, and never by path again.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptfmt import index as index_module
from ckptfmt import layout
from ckptfmt._core import crc32c_combine
from ckptfmt.errors import ClosedError
from ckptfmt.partitions import (
    Partition,
    check_index_sum,
    check_partition,
    expected_header,
    open_folder,
    read_index,
    read_small,
)
from ckptfmt.read_plan import Extents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from ckptfmt.index import Index


class CheckpointFiles:
    """A checkpoint's folder, its index and its partitions, open and checked.

    Attributes
    ----------
    path : str
        As given.
    dir_fd : int
        The folder.
    index : Index
        Validated.
    partitions : list of Partition
        In order.
    crcs : uint32 array
        Checksums of all blocks, in table order over the partitions.
    extents : Extents
        The index's, as columns.
    positions : dict of str to int
        Names, and which tensor each means.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._users = 0
        self._closing: bool = False
        self.dir_fd = open_folder(self.path)
        self.partitions: list[Partition] = []
        try:
            data = read_index(self.dir_fd, self.path)
            sums = read_small(self.dir_fd, self.path, layout.SUMS_FILE)
            where = os.path.join(self.path, layout.INDEX_FILE)
            check_index_sum(data, sums, where)
            self.index: Index = index_module.decode(data, where)
            self.crcs = self._open_partitions()
        except BaseException:
            self._close()
            raise
        self.extents = Extents.of(self.index)
        self.positions: dict[str, int] = {
            name: position
            for position, entry in enumerate(self.index.tensors)
            for name in entry.names
        }

    def _open_partitions(self) -> npt.NDArray[np.uint32]:
        import numpy as np  # noqa: PLC0415

        tables = []
        for number, entry in enumerate(self.index.partitions):
            partition = Partition.open(self.dir_fd, self.path, entry.file)
            self.partitions.append(partition)
            tables.append(check_partition(partition, expected_header(self.index, number)))
        return np.concatenate(tables) if tables else np.zeros(0, np.uint32)

    def crc32c(self, position: int) -> int:
        """CRC32C of a whole tensor, combined from those of its blocks. Nothing is read."""
        mine = self.extents.of_tensors([position])
        crc, block = 0, int(self.extents.first_block[mine[0]]) if len(mine) else 0
        for extent in self.index.tensors[position].extents:
            for at in range(0, extent.nbytes, self.index.block_nbytes):
                nbytes = min(self.index.block_nbytes, extent.nbytes - at)
                crc = crc32c_combine(crc, int(self.crcs[block]), nbytes)
                block += 1
        return crc

    def nbytes(self, positions: Iterable[int]) -> int:
        """Bytes of some tensors, padding not counted."""
        mine = self.extents.of_tensors(list(positions))
        return int(self.extents.nbytes[mine].sum())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the files open. A descriptor closed under a reader might be another file by then."""
        with self._lock:
            if self._closing:
                raise ClosedError(f"{self.path}: this checkpoint has been closed")
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closing and self._users == 0
        if last:
            self._close()

    def close(self) -> None:
        """Close everything, as soon as nobody uses it. Safe to call twice."""
        with self._lock:
            idle = not self._closing and self._users == 0
            self._closing = True
        if idle:
            self._close()

    def _close(self) -> None:
        for partition in self.partitions:
            partition.close()
        fd, self.dir_fd = self.dir_fd, -1
        if fd >= 0:
            os.close(fd)
