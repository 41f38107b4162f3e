"""Where every tensor goes: the write plan. Pure, so ``--dry-run`` is the plan and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt import layout
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError
from ckptfmt.index import Extent, PartitionEntry, TensorEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptfmt.topology import Cut


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is to be stored: names (several are tied), dtype as in the index, shape.

    And whose it is, if it is one rank's alone, and how the whole was cut that it is a piece of.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    rank: int | None = None
    cut: Cut | None = None

    @property
    def nbytes(self) -> int:
        """Bytes to be written, padding not counted."""
        return DTYPES[self.dtype].nbytes(self.shape)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of blocks of one tensor, to be read from the source and written in one go.

    Attributes
    ----------
    tensor : int
        Position in ``WritePlan.tensors``.
    start : int
        First byte within the tensor.
    offset : int
        Where it goes in the partition's file.
    nbytes : int
        At most the chunk size it was planned for.
    block : int
        Its first block in the partition's checksum table.
    """

    tensor: int
    start: int
    offset: int
    nbytes: int
    block: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pieces that stand next to each other in one partition: a unit of work."""

    partition: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class WritePlan:
    """The index before any byte is read: partitions, and tensors in order of position."""

    alignment: int
    partitions: tuple[PartitionEntry, ...]
    tensors: tuple[TensorEntry, ...]

    @property
    def file_nbytes(self) -> tuple[int, ...]:
        """Size of each partition's file."""
        return tuple(self.alignment + p.payload_nbytes + p.table_nbytes for p in self.partitions)

    def chunks(self, nbytes: int) -> Iterator[Chunk]:
        """Cut the plan into chunks that span at most `nbytes`, whole blocks, of a file."""
        pieces: list[Piece] = []
        number, block = -1, 0
        for position, tensor in enumerate(self.tensors):
            start = 0
            for extent in tensor.extents:
                if extent.partition != number:
                    if pieces:
                        yield Chunk(number, tuple(pieces))
                        pieces = []
                    number, block = extent.partition, 0
                for at in range(0, extent.nbytes, nbytes):
                    piece_nbytes = min(nbytes, extent.nbytes - at)
                    piece = Piece(position, start, extent.offset + at, piece_nbytes, block)
                    if pieces and piece.offset + piece_nbytes - pieces[0].offset > nbytes:
                        yield Chunk(number, tuple(pieces))
                        pieces = []
                    pieces.append(piece)
                    start += piece_nbytes
                    block += layout.block_count(piece_nbytes)
        if pieces:
            yield Chunk(number, tuple(pieces))


class _Filling:
    """Fill partitions in order: each ends where the next tensor does not fit."""

    def __init__(self, alignment: int, partition_nbytes: int) -> None:
        self.alignment = alignment
        self.limit = partition_nbytes
        self.done: list[PartitionEntry] = []
        self.payload = 0
        self.blocks = 0
        self.rank: int | None = None  # whose tensors the partition takes
        # A tensor larger than a partition is cut after whole units, so that its blocks stay whole.
        self.unit = max(alignment, layout.BLOCK_NBYTES)
        per_unit = self.unit + 4 * (self.unit // layout.BLOCK_NBYTES)
        self.largest = (self.limit - alignment - layout.table_nbytes(0)) // per_unit * self.unit
        if self.largest <= 0:
            least = alignment + layout.table_nbytes(0) + per_unit
            raise OptionError(
                f"a partition of {partition_nbytes} bytes holds nothing, "
                f"with an alignment of {alignment} it needs at least {least}"
            )

    def fits(self, nbytes: int) -> bool:
        payload = self.payload + layout.align_up(nbytes, self.alignment)
        table = layout.table_nbytes(self.blocks + layout.block_count(nbytes))
        return self.alignment + payload + table <= self.limit

    def add(self, nbytes: int) -> Extent:
        extent = Extent(len(self.done), self.alignment + self.payload, nbytes)
        self.payload += layout.align_up(nbytes, self.alignment)
        self.blocks += layout.block_count(nbytes)
        return extent

    def close(self) -> None:
        if self.blocks:
            name = layout.partition_file(len(self.done))
            self.done.append(PartitionEntry(name, self.payload, layout.table_nbytes(self.blocks)))
        self.payload = self.blocks = 0

    def extents(self, nbytes: int, rank: int | None) -> tuple[Extent, ...]:
        if nbytes == 0:
            return ()
        if rank != self.rank or not self.fits(nbytes):
            self.close()
            self.rank = rank
        extents = []
        while not self.fits(nbytes):
            extents.append(self.add(self.largest))
            nbytes -= self.largest
            self.close()
        extents.append(self.add(nbytes))
        return tuple(extents)


def plan_write(
    tensors: Sequence[TensorSpec], *, alignment: int, partition_nbytes: int
) -> WritePlan:
    """Lay the tensors out, in the order given; a partition holds those of one rank, or of none.

    Parameters
    ----------
    tensors : sequence of TensorSpec
        What is to be stored: what belongs to no rank, then what to rank 0, 1 and so on.
    alignment : int
        Bytes; of every tensor and of every payload's end.
    partition_nbytes : int
        Limit of a partition's file, header and table included.

    Raises
    ------
    OptionError
        A partition of this size holds nothing.
    """
    filling = _Filling(alignment, partition_nbytes)
    entries = tuple(
        TensorEntry(s.names, s.dtype, s.shape, filling.extents(s.nbytes, s.rank), s.rank, s.cut)
        for s in tensors
    )
    filling.close()
    return WritePlan(alignment, tuple(filling.done), entries)
