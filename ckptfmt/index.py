"""The index, ``ckptfmt.json``: typed, encoded for a person to read, validated once.

Its rules: docs/format.md, section 4. Pure: no file is opened here. `decode` is the one place that
doubts an index.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ckptfmt import layout, topology
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FormatError, UnsupportedVersionError
from ckptfmt.topology import Cut, Topology

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT_NAME = "ckptfmt"
MAX_INDEX_NBYTES = 256 << 20
MAX_TENSORS = 1_000_000
MAX_DIMS = 64
MAX_BYTES = 1 << 62  # of all partitions together, so that no sum of sizes leaves 64 bits
#: A size or offset: beyond the limit neither sums nor messages would stay small.
Nbytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
#: Features a reader of this version knows. A name in ``requires`` that is not here is refused.
KNOWN_FEATURES: frozenset[str] = frozenset({topology.FEATURE})


class Extent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes of one tensor in one partition: file number, offset from the file's start, length."""

    partition: Nbytes
    offset: Nbytes
    nbytes: Nbytes


class TensorEntry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One stored tensor. Several names are tied weights: stored once, loaded as shared memory.

    With a `rank` it is that rank's alone; with a `cut` it is a piece of a whole tensor.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[Nbytes, ...]
    extents: tuple[Extent, ...]
    rank: Nbytes | None = None
    cut: Cut | None = None

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, padding not counted."""
        return DTYPES[self.dtype].nbytes(self.shape)


class PartitionEntry(msgspec.Struct, frozen=True, gc=False):
    """One partition file."""

    file: str
    payload_nbytes: Nbytes
    table_nbytes: Nbytes


def _nothing() -> dict[str, Any]:
    """Unlike ``dict``, a default that is written all the same."""
    return {}


class Index(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything about a checkpoint but its bytes."""

    format: str
    version: tuple[int, int]
    requires: tuple[str, ...]
    id: str
    alignment: Nbytes
    block_nbytes: Nbytes
    partitions: tuple[PartitionEntry, ...]
    tensors: tuple[TensorEntry, ...]
    topology: Topology | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=_nothing)
    provenance: dict[str, Any] = msgspec.field(default_factory=_nothing)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, tied ones once, and of all ranks."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def blocks(self) -> Iterator[tuple[TensorEntry, Extent, int, int]]:
        """Checksum blocks in table order: the tensor, its extent, offset in the file, length."""
        for tensor in self.tensors:
            for extent in tensor.extents:
                for at in range(0, extent.nbytes, layout.BLOCK_NBYTES):
                    nbytes = min(layout.BLOCK_NBYTES, extent.nbytes - at)
                    yield tensor, extent, extent.offset + at, nbytes


def encode(index: Index) -> bytes:
    """One line for each partition and each tensor, so that ``grep`` and ``diff`` work on it."""
    fields = []
    for name in Index.__struct_fields__:
        value = getattr(index, name)
        if value is None:
            continue
        if name in ("partitions", "tensors") and value:
            lines = b",\n".join(map(msgspec.json.encode, value))
            text = b"[\n" + lines + b"\n]"
        else:
            text = msgspec.json.encode(value, order="deterministic")
        fields.append(msgspec.json.encode(name) + b": " + text)
    return b"{\n" + b",\n".join(fields) + b"\n}\n"


def decode(data: bytes, where: str) -> Index:
    """Decode and check an index; nothing after this call has to doubt it.

    Parameters
    ----------
    data : bytes
        The file's content.
    where : str
        The file's name, for messages.

    Raises
    ------
    UnsupportedVersionError
        A newer major version, or a required feature that this reader does not know.
    FormatError
        Anything else that docs/format.md forbids.
    """
    if len(data) > MAX_INDEX_NBYTES:
        raise FormatError(f"{where}: {len(data)} bytes, at most {MAX_INDEX_NBYTES} are allowed")
    _check_version(data, where)
    try:
        index = msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"{where}: not an index: {error}") from error
    _refuse_repeated_keys(data, index, where)
    _check_index(index, where)
    return index


class _Preamble(msgspec.Struct):
    format: str = ""
    version: tuple[int, int] = (0, 0)
    requires: tuple[str, ...] = ()


def _check_version(data: bytes, where: str) -> None:
    """First of all: what a newer index holds may not even have our types."""
    try:
        preamble = msgspec.json.decode(data, type=_Preamble)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"{where}: not an index: {error}") from error
    if preamble.format != FORMAT_NAME:
        raise FormatError(f"{where}: format is {preamble.format!r}, expected {FORMAT_NAME!r}")
    major, minor = preamble.version
    unknown = sorted(set(preamble.requires) - KNOWN_FEATURES)
    if major > layout.MAJOR or unknown:
        needs = f"the feature {unknown[0]!r}" if unknown else f"format {major}.{minor}"
        raise UnsupportedVersionError(
            f"{where}: needs {needs}, this ckptfmt reads format {layout.MAJOR}.{layout.MINOR}",
            hint="pip install --upgrade ckptfmt",
        )
    if major != layout.MAJOR or minor < 0:
        raise FormatError(f"{where}: format {major}.{minor} does not exist")


def _refuse_repeated_keys(data: bytes, index: Index, where: str) -> None:
    """Decoders keep the last of two equal keys silently, and two decoders may disagree.

    What comes back unchanged from decoding and encoding has no such keys: no byte was dropped. Only
    an index that another writer spelled differently takes the slow way.
    """
    try:
        if msgspec.json.format(data, indent=-1) == msgspec.json.encode(index):
            return
        json.loads(data, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except FormatError:
        raise
    except (RecursionError, ValueError) as error:
        raise FormatError(f"{where}: not an index: {error}") from error


def _unique(pairs: list[tuple[str, object]], where: str) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise FormatError(f"{where}: the key {twice!r} stands twice in one object")
    return found


def _check_index(index: Index, where: str) -> None:
    layout.check_alignment(index.alignment, where)
    if index.block_nbytes != layout.BLOCK_NBYTES:
        raise FormatError(
            f"{where}: block_nbytes is {index.block_nbytes}, expected {layout.BLOCK_NBYTES}"
        )
    if len(index.id) != 32 or index.id.strip("0123456789abcdef"):
        raise FormatError(f"{where}: id is {index.id!r}, expected 32 lower-case hex digits")
    if len(index.tensors) > MAX_TENSORS:
        raise FormatError(f"{where}: {len(index.tensors)} tensors, at most {MAX_TENSORS} allowed")
    for number, partition in enumerate(index.partitions):
        if partition.file != layout.partition_file(number):
            raise FormatError(
                f"{where}: partition {number} is {partition.file!r}, "
                f"expected {layout.partition_file(number)!r}"
            )
    total = sum(p.payload_nbytes for p in index.partitions)
    if total > MAX_BYTES:
        raise FormatError(f"{where}: {total} bytes of payload, at most {MAX_BYTES} are allowed")
    if not all(tensor.names for tensor in index.tensors):
        raise FormatError(f"{where}: a tensor has no name")
    topology.check(index.tensors, index.requires, index.topology, where)
    _check_names(index, where)
    _check_extents(index, where)


def _check_names(index: Index, where: str) -> None:
    names = [name for tensor in index.tensors for name in tensor.names]
    if len(names) > MAX_TENSORS:
        raise FormatError(f"{where}: {len(names)} names, at most {MAX_TENSORS} allowed")
    if index.topology is not None:
        _check_names_of_ranks(index, where)
    elif len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise FormatError(f"{where}: the tensor name {twice!r} stands twice")


def _check_names_of_ranks(index: Index, where: str) -> None:
    """Ranks have names of their own; what belongs to none is there for all of them."""
    names = Counter((tensor.rank, name) for tensor in index.tensors for name in tensor.names)
    for (rank, name), count in names.items():
        if count > 1 or (rank is not None and (None, name) in names):
            raise FormatError(f"{where}: the tensor name {name!r} stands twice for a rank")


def _check_extents(index: Index, where: str) -> None:
    """The extents in order must tile the payloads: no gap, no overlap, no hidden byte."""
    alignment, partitions = index.alignment, index.partitions
    number, offset, blocks = -1, 0, 0
    end = 0  # of the payload of partition `number`
    rank: int | None = None  # whose tensors are in it

    def partition_done() -> None:
        if number >= 0 and (offset != end or blocks == 0):
            raise FormatError(
                f"{where}: the tensors of {partitions[number].file} end at byte {offset}, "
                f"its payload at {end}"
            )
        if number >= 0 and partitions[number].table_nbytes != layout.table_nbytes(blocks):
            raise FormatError(
                f"{where}: {partitions[number].file} has a table of "
                f"{partitions[number].table_nbytes} bytes, expected {layout.table_nbytes(blocks)}"
            )

    # Shapes repeat from layer to layer, and this loop decides how long opening takes.
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    for tensor in index.tensors:
        kind = (tensor.dtype, tensor.shape)
        expected = sizes.get(kind, -1)
        if expected < 0:
            expected = sizes[kind] = _tensor_nbytes(tensor, where)
        last = len(tensor.extents) - 1
        for i, extent in enumerate(tensor.extents):
            start, nbytes = extent.offset, extent.nbytes
            if extent.partition != number:
                partition_done()
                if extent.partition != number + 1 or extent.partition >= len(partitions):
                    raise FormatError(
                        f"{where}: tensor {tensor.name!r} is in partition {extent.partition}, "
                        f"expected {number} or {number + 1} of {len(partitions)}"
                    )
                number, offset, blocks = extent.partition, alignment, 0
                end, rank = alignment + partitions[number].payload_nbytes, tensor.rank
            if start != offset or nbytes <= 0 or nbytes > end - offset:
                raise FormatError(
                    f"{where}: tensor {tensor.name!r} has bytes {start}..{start + nbytes} of "
                    f"{partitions[number].file}, expected bytes from {offset} on, "
                    f"the payload ends at {end}"
                )
            if tensor.rank != rank:
                raise FormatError(
                    f"{where}: tensor {tensor.name!r} of rank {tensor.rank} is in "
                    f"{partitions[number].file}, which is of rank {rank}"
                )
            offset += layout.align_up(nbytes, alignment)
            blocks += layout.block_count(nbytes)
            expected -= nbytes
            if last and not _continues(extent, i, last, offset == end, alignment):
                raise FormatError(
                    f"{where}: tensor {tensor.name!r} has several extents; they must end and begin "
                    f"with their partitions, in whole blocks"
                )
        if expected != 0:
            raise FormatError(
                f"{where}: tensor {tensor.name!r} has {tensor.nbytes - expected} bytes, "
                f"{tensor.dtype} {list(tensor.shape)} needs {tensor.nbytes}"
            )
    partition_done()
    if number + 1 != len(partitions):
        raise FormatError(f"{where}: {partitions[number + 1].file} holds no tensor")


def _continues(extent: Extent, i: int, last: int, ends: bool, alignment: int) -> bool:
    """Whether extent `i` of several may stand where it does."""
    if i != 0 and extent.offset != alignment:
        return False
    whole = extent.nbytes % alignment == 0 and extent.nbytes % layout.BLOCK_NBYTES == 0
    return i == last or (ends and whole)


def _tensor_nbytes(tensor: TensorEntry, where: str) -> int:
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise FormatError(
            f"{where}: tensor {tensor.name!r} has the dtype {tensor.dtype!r}, which format 1 "
            f"does not have"
        )
    shape = tensor.shape
    if len(shape) > MAX_DIMS:
        raise FormatError(f"{where}: tensor {tensor.name!r} has the shape {list(shape)}")
    if dtype.pack > 1 and (not shape or shape[-1] % dtype.pack):
        raise FormatError(
            f"{where}: tensor {tensor.name!r} of {dtype.name} has the shape {list(shape)}; "
            f"its last dimension must be a multiple of {dtype.pack}"
        )
    nbytes = dtype.nbytes(shape)
    # An empty tensor has a shape all the same, and frameworks multiply its other dimensions.
    if (nbytes or dtype.nbytes([max(n, 1) for n in shape])) > MAX_BYTES:
        raise FormatError(f"{where}: tensor {tensor.name!r} is larger than any file can be")
    return nbytes
