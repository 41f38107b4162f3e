"""A checkpoint of ranks as one rank sees it, or as nobody cut it: which tensors, under which names.

At the degree that it was cut for, a rank's tensors stand in the files as they are. Otherwise they
are put together of the pieces there are.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ckptfmt._core import crc32c
from ckptfmt.checkpoint_files import CheckpointFiles, OpenFiles, TensorFiles
from ckptfmt.errors import LoadMismatchError, OptionError
from ckptfmt.index import TensorEntry
from ckptfmt.pieces import wholes
from ckptfmt.rows import parts
from ckptfmt.stored_bytes import StoredBytes
from ckptfmt.topology import positions_of
from ckptfmt.workers import run_workers
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from ckptfmt.gathering import Gather
    from ckptfmt.rows import Rows
    from ckptfmt.topology import Piece, Topology

CHUNK_NBYTES = 8 << 20
THREADS = 4


def open_files(
    path: str | os.PathLike[str], rank: int | None, tensor_parallel: int | None
) -> OpenFiles:
    """Open a checkpoint as one rank of so many sees it, or whole.

    Raises
    ------
    OptionError
        There is no such rank, or a rank has to be named and is not.
    LoadMismatchError
        What it holds is of another number of ranks and cannot be cut again.
    """
    files = CheckpointFiles(path)
    try:
        ranks, rank = wanted_rank(files, rank, tensor_parallel)
        topology = files.index.topology
        if topology is None:
            return files
        if topology.tensor_parallel == ranks and (ranks > 1 or topology.kind == "state"):
            files.positions = positions_of(files.index.tensors, rank)
            return files
        return RegroupedFiles(files, ranks, rank)
    except BaseException:
        files.close()
        raise


def wanted_rank(
    files: OpenFiles, rank: int | None, tensor_parallel: int | None
) -> tuple[int, int]:
    """How many ranks are meant, and which; one that has everything, if none was named."""
    topology: Topology | None = files.index.topology
    if tensor_parallel is not None and tensor_parallel < 1:
        raise OptionError(f"tensor_parallel is {tensor_parallel}, expected at least 1")
    if rank is None:
        if tensor_parallel not in (None, 1):
            raise OptionError(
                f"tensor_parallel is {tensor_parallel} and no rank is named", hint="rank=0, say"
            )
        if topology is not None and topology.kind == "state":
            raise OptionError(
                f"{files.path}: holds the state of {topology.tensor_parallel} ranks",
                hint=f"say which: rank=0, tensor_parallel={topology.tensor_parallel}",
            )
        return 1, 0
    stored = topology.tensor_parallel if topology is not None else 1
    ranks = stored if tensor_parallel is None else tensor_parallel
    if not 0 <= rank < ranks:
        raise OptionError(f"rank is {rank}, expected 0 to {ranks - 1} of {ranks}")
    if ranks != stored and topology is None:
        raise OptionError(
            f"{files.path}: was not cut for ranks",
            hint=f"ckptfmt convert --tensor-parallel {ranks} cuts it",
        )
    if ranks != stored and topology is not None and topology.kind == "state":
        raise LoadMismatchError(
            f"{files.path}: holds the state of {stored} ranks, {ranks} are wanted",
            hint="state can be loaded by as many ranks as stored it, and by no others",
        )
    return ranks, rank


def refuse_regrouped(files: TensorFiles, what: str) -> None:
    """Refuse for what is about loads as they are made of ordinary checkpoints."""
    if isinstance(files, GatheredFiles):
        raise OptionError(
            f"{files.path}: is cut for ranks, and {what} is for checkpoints that are not",
            hint="ckptfmt load --rank loads what a rank has; ckptfmt convert --tensor-parallel 1 "
            "joins it",
        )


def specs_of(tensors: Iterable[TensorEntry]) -> list[TensorSpec]:
    """The tensors of an index without their places."""
    return [TensorSpec(t.names, t.dtype, t.shape, t.rank, t.cut) for t in tensors]


class GatheredFiles(TensorFiles):
    """Files whose tensors are put together of parts of what they hold, or parts of such ones.

    ``index`` is of these tensors, which have no extents; ``extents``, ``crcs`` and ``partitions``
    of what is in the files.

    Parameters
    ----------
    stored : StoredBytes
        What is in the files.
    tensors : sequence of TensorEntry
        What is put together.
    gathers : sequence of Gather
        Of what.
    starts : sequence of int
        With which byte of that each tensor begins.
    """

    def __init__(
        self,
        stored: StoredBytes,
        tensors: Sequence[TensorEntry],
        gathers: Sequence[Gather],
        starts: Sequence[int],
    ) -> None:
        files = stored.files
        self.path, self.partitions = files.path, files.partitions
        self.crcs, self.extents = files.crcs, files.extents
        self.index = replace(files.index, tensors=tuple(tensors))
        self._bytes, self._gathers, self._starts = stored, gathers, starts

    def nbytes(self, positions: Iterable[int]) -> int:
        return sum(self.index.tensors[position].nbytes for position in set(positions))

    def spans(self) -> npt.NDArray[np.int64]:
        return np.array([tensor.nbytes for tensor in self.index.tensors], np.int64)

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on, verified."""
        start += self._starts[tensor]
        self._gathers[tensor].read_into(self._bytes.read_into, start, buffer)

    def fill(
        self, buffers: Mapping[int, memoryview], progress: Callable[[int, int], None] | None
    ) -> tuple[int, int]:
        """Fill memory for whole tensors, by position; bytes read for it, and threads that did."""
        stored = self._bytes.counted()
        total = sum(len(buffer) for buffer in buffers.values())
        chunks = (
            (position, start, buffer[start : start + CHUNK_NBYTES])
            for position, buffer in buffers.items()
            for start in range(0, len(buffer), CHUNK_NBYTES)
        )
        count = min(THREADS, sum(-(-len(buffer) // CHUNK_NBYTES) for buffer in buffers.values()))
        stop, lock = threading.Event(), threading.Lock()
        errors: list[BaseException] = []
        filled = [0]

        def work() -> None:
            try:
                while not stop.is_set():
                    with lock:
                        chunk = next(chunks, None)
                    if chunk is None:
                        return
                    tensor, start, buffer = chunk
                    start += self._starts[tensor]
                    self._gathers[tensor].read_into(stored.read_into, start, buffer)
                    with lock:
                        filled[0] += len(buffer)
            except BaseException as error:  # handed to the thread that waits
                errors.append(error)
                stop.set()

        tick = None if progress is None else lambda: progress(filled[0], total)
        run_workers(work, count, name="ckptfmt-join", stop=stop.set, tick=tick)
        if errors:
            raise errors[0]
        return stored.read_nbytes, count


class RegroupedFiles(GatheredFiles, OpenFiles):
    """A checkpoint whose pieces are put together to the tensors of another number of ranks.

    Parameters
    ----------
    files : CheckpointFiles
        Of a checkpoint whose tensors were cut. Closed with this.
    ranks, rank : int
        How many ranks there shall be, and which one this is.
    """

    def __init__(self, files: CheckpointFiles, ranks: int, rank: int) -> None:
        topology = files.index.topology
        assert topology is not None
        self._files, self.dir_fd = files, files.dir_fd
        found = wholes(specs_of(files.index.tensors), topology.tensor_parallel)
        made = [whole.of_rank(ranks, rank) for whole in found]
        self._pieces = [whole.piece(ranks, rank) for whole in found]
        entries = [TensorEntry(s.names, s.dtype, s.shape, ()) for s, _ in made]
        GatheredFiles.__init__(
            self, StoredBytes(files), entries, [gathered for _, gathered in made], [0] * len(made)
        )
        self.positions = positions_of(entries, None)

    def wanted(
        self, chosen: dict[str, int], rows: Rows | None
    ) -> tuple[TensorFiles, dict[str, int]]:
        if not rows:
            return self, chosen
        entries, stored, ranges = parts(self.index, self.positions, chosen, rows)
        positions = positions_of(entries, None)
        gathers = [self._gathers[position] for position in stored]
        files = GatheredFiles(self._bytes, entries, gathers, [low for low, _ in ranges])
        return files, {name: positions[name] for name in sorted(chosen, key=positions.__getitem__)}

    def piece_of(self, position: int) -> Piece | None:
        return self._pieces[position]

    def crc32c(self, position: int) -> int:
        """CRC32C of a whole tensor, which has to be read for it."""
        crc, nbytes = 0, self.index.tensors[position].nbytes
        for start in range(0, nbytes, CHUNK_NBYTES):
            chunk = memoryview(bytearray(min(CHUNK_NBYTES, nbytes - start)))
            self.read_into(position, start, chunk)
            crc = crc32c(chunk, crc)
        return crc

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with self._files.in_use():
            yield

    def close(self) -> None:
        self._files.close()
