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
from ckptfmt.extents import Extents
from ckptfmt.partitions import (
    Partition,
    check_index_sum,
    check_partition,
    expected_header,
    open_folder,
    read_index,
    read_small,
)
from ckptfmt.rows import cut
from ckptfmt.topology import piece_of, positions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from ckptfmt.index import Index
    from ckptfmt.rows import Rows
    from ckptfmt.topology import Piece


class TensorFiles:
    """Open files, and which of their bytes are which tensor: what a load is made from.

    Attributes
    ----------
    path : str
        As given.
    index : Index
        Validated, or a part of such a one.
    partitions : list of Partition
        In order.
    crcs : uint32 array
        Checksums of all blocks, in table order over the partitions.
    extents : Extents
        The index's, as columns.
    """

    path: str
    index: Index
    partitions: list[Partition]
    crcs: npt.NDArray[np.uint32]
    extents: Extents
    #: Why nothing can be verified; empty if it can.
    unverified: str = ""

    @property
    def stored(self) -> TensorFiles:
        """All that the files hold, if this is a part of it."""
        return self

    def nbytes(self, positions: Iterable[int]) -> int:
        """Bytes of some tensors, padding not counted."""
        mine = self.extents.of_tensors(list(positions))
        return int(self.extents.nbytes[mine].sum())

    def spans(self) -> npt.NDArray[np.int64]:
        """For each tensor the bytes that reading it alone takes in memory."""
        import numpy as np  # noqa: PLC0415

        tensor, taken = self.extents.tensor, self.extents.taken
        return np.bincount(tensor, taken, len(self.index.tensors)).astype(np.int64)


class PartialFiles(TensorFiles):
    """The same files, of whose tensors only some rows are wanted."""

    def __init__(self, stored: TensorFiles, index: Index, extents: Extents) -> None:
        self.path = stored.path
        self.index = index
        self.partitions = stored.partitions
        self.crcs = stored.crcs
        self.extents = extents
        self.unverified = stored.unverified
        self._stored = stored

    @property
    def stored(self) -> TensorFiles:
        """All that the files hold."""
        return self._stored


class OpenFiles(TensorFiles):
    """Files that are held open, and closed when nobody reads from them any more.

    Attributes
    ----------
    dir_fd : int
        Their folder.
    positions : dict of str to int
        Names, and which tensor each means; of a checkpoint of ranks, to the rank it is opened for.
    """

    positions: dict[str, int]

    def __init__(self, path: str, folder: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._users = 0
        self._closing: bool = False
        self.partitions = []
        self.dir_fd = open_folder(folder)
        try:
            self._open()
            self.positions = positions_of(self.index.tensors, None)
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        """Open all files and learn what is in them."""
        raise NotImplementedError

    def crc32c(self, position: int) -> int:
        """CRC32C of a whole tensor."""
        raise NotImplementedError

    def are_equal(self, position: int, other: int) -> bool:
        """Whether two tensors have the same bytes, by their checksums."""
        return self.crc32c(position) == self.crc32c(other)

    def verified(self, asked: bool | None, otherwise: bool) -> bool:
        """Whether to compare checksums: as asked, else as a load does that is not."""
        return otherwise if asked is None else asked

    def wanted(
        self, chosen: dict[str, int], rows: Rows | None
    ) -> tuple[TensorFiles, dict[str, int]]:
        """What a load of the chosen names is made from, and which of its tensors they are."""
        if not rows:
            return self, chosen
        index, extents, positions = cut(self.index, self.extents, self.positions, chosen, rows)
        found = {name: positions[name] for name in sorted(chosen, key=positions.__getitem__)}
        return PartialFiles(self, index, extents), found

    def piece_of(self, position: int) -> Piece | None:
        """Which part of a whole tensor one is; None if it is all of it, or not one range."""
        topology = self.index.topology
        entry = self.index.tensors[position]
        return piece_of(entry, topology.tensor_parallel) if topology is not None else None

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


class CheckpointFiles(OpenFiles):
    """A checkpoint's folder, its index and its partitions, open and checked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path), os.fspath(path))

    def _open(self) -> None:
        data = read_index(self.dir_fd, self.path)
        sums = read_small(self.dir_fd, self.path, layout.SUMS_FILE)
        where = os.path.join(self.path, layout.INDEX_FILE)
        check_index_sum(data, sums, where)
        self.index = index_module.decode(data, where)
        self.crcs = self._open_partitions()
        self.extents = Extents.of(self.index)

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
