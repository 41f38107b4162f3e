"""A folder of plain safetensors, or one such file, opened to be loaded as a checkpoint is.

The engine is the same. What is missing shows: nothing is aligned, so memory mirrors the files, and
there are no checksums, so nothing can be verified.
"""

from __future__ import annotations

import os

import numpy as np

from ckptfmt import layout, regrouped
from ckptfmt.checkpoint_files import CheckpointFiles, OpenFiles
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FormatError, OptionError, SourceError, failing_as
from ckptfmt.extents import MirroredExtents
from ckptfmt.index import Extent, Index, PartitionEntry, TensorEntry
from ckptfmt.input_file import read_into
from ckptfmt.partitions import Partition
from ckptfmt.sources.folder import Weights, index_weights, refuse_missing
from ckptfmt.sources.kinds import weights_in
from ckptfmt.sources.limits import refuse_dimensions, refuse_many
from ckptfmt.sources.safetensors_header import decode_header, header_nbytes, twice

#: What such a checkpoint's index says it is.
FORMAT_NAME = "safetensors"
SUFFIXES = (".safetensors", ".safetensors.index.json")
#: Bytes compared at once.
CHUNK_NBYTES = 8 << 20


def open_files(
    path: str | os.PathLike[str], rank: int | None = None, tensor_parallel: int | None = None
) -> OpenFiles:
    """Open what is plain safetensors and no checkpoint yet, or as ``regrouped.open_files``."""
    text = os.fspath(path)
    if not is_plain(text):
        return regrouped.open_files(text, rank, tensor_parallel)
    files = PlainFiles(text)
    try:
        regrouped.wanted_rank(files, rank, tensor_parallel)
    except BaseException:
        files.close()
        raise
    return files


def open_stored(path: str | os.PathLike[str]) -> OpenFiles:
    """Open either as it is stored, whoever's the tensors are."""
    text = os.fspath(path)
    return PlainFiles(text) if is_plain(text) else CheckpointFiles(text)


def is_plain(path: str) -> bool:
    """Whether this is no checkpoint, and safetensors by its name or the names in it."""
    if os.path.isfile(path):
        return path.endswith(SUFFIXES)
    if not os.path.isdir(path) or os.path.lexists(os.path.join(path, layout.INDEX_FILE)):
        return False
    with failing_as(path, "cannot be read"):
        return any(name.endswith(SUFFIXES) for name in os.listdir(path))


class PlainFiles(OpenFiles):
    """Weight files of a folder, those that a conversion takes, open and their headers checked.

    Parameters
    ----------
    path : str
        The folder, one file, or the index of several.
    """

    unverified = "safetensors has no checksums"

    def __init__(self, path: str) -> None:
        folder, name = os.path.split(path)
        if os.path.isdir(path):
            self._folder = path
            self._weights = weights_in(path)
            if self._weights.kind != "safetensors":
                raise SourceError(f"{path}: its weights are {self._weights.kind}, not safetensors")
        else:
            self._folder = folder or "."
            is_index = name.endswith(".index.json")
            self._weights = (
                index_weights(self._folder, "safetensors", name) if is_index
                else Weights("safetensors", (name,), {})
            )  # fmt: skip
        super().__init__(path, self._folder)

    def _open(self) -> None:
        tensors: list[TensorEntry] = []
        entries: list[PartitionEntry] = []
        metadata: dict[str, str] = {}
        seen: dict[str, str] = {}
        for number, file in enumerate(self._weights.files):
            partition = Partition.open(self.dir_fd, self._folder, file)
            self.partitions.append(partition)
            start = partition.read(0, 8)
            data = bytes(partition.read(0, 8 + header_nbytes(bytes(start))))
            found, more = decode_header(data, partition.file_nbytes, partition.path)
            metadata.update(more)
            for name, dtype, shape, offset, nbytes in found:
                if name in seen:
                    raise twice(partition.path, name, seen[name])
                seen[name] = file
                refuse_dimensions(partition.path, name, shape)
                extents = (Extent(number, offset, nbytes),) if nbytes else ()
                entry = TensorEntry((name,), dtype, shape, extents)
                _check_range(partition, entry)
                tensors.append(entry)
            payload = sum(tensor.nbytes for tensor in found)
            entries.append(PartitionEntry(file, payload, 0))
        refuse_many(self.path, len(tensors))
        refuse_missing(self._folder, tensors, self._weights.expected)
        self.index = Index(
            format=FORMAT_NAME, version=(0, 0), requires=(), id="", alignment=1,
            block_nbytes=layout.BLOCK_NBYTES, partitions=tuple(entries), tensors=tuple(tensors),
            metadata=metadata, provenance={"source": {"kind": "safetensors"}},
        )  # fmt: skip
        ends = np.array([partition.file_nbytes for partition in self.partitions], np.int64)
        steps = [max(1, DTYPES[tensor.dtype].bits // 8) for tensor in tensors]
        self.extents = MirroredExtents.of_files(self.index, ends, np.array(steps, np.int64))
        largest = int(ends.max(initial=0))
        self.crcs = np.zeros(layout.block_count(largest) + 1, np.uint32)  # looked up, not compared

    def verified(self, asked: bool | None, otherwise: bool) -> bool:
        """Nothing can be; to ask for it is refused."""
        if asked:
            raise OptionError(
                f"{self.path}: verify=True: {self.unverified}", hint=_conversion_of(self.path)
            )
        return False

    def crc32c(self, position: int) -> int:
        """There is none."""
        raise OptionError(f"{self.path}: {self.unverified}", hint=_conversion_of(self.path))

    def are_equal(self, position: int, other: int) -> bool:
        """Whether two tensors have the same bytes: they are read."""
        ours, theirs = (self.index.tensors[p] for p in (position, other))
        if ours.nbytes != theirs.nbytes or not ours.nbytes:
            return ours.nbytes == theirs.nbytes
        one, two = (memoryview(bytearray(min(CHUNK_NBYTES, ours.nbytes))) for _ in range(2))
        for start in range(0, ours.nbytes, CHUNK_NBYTES):
            nbytes = min(CHUNK_NBYTES, ours.nbytes - start)
            self._read(ours, start, one[:nbytes])
            self._read(theirs, start, two[:nbytes])
            if one[:nbytes] != two[:nbytes]:
                return False
        return True

    def _read(self, entry: TensorEntry, start: int, buffer: memoryview) -> None:
        (extent,) = entry.extents
        partition = self.partitions[extent.partition]
        with failing_as(partition.path, "cannot be read"):
            filled = read_into(partition.fd, buffer, extent.offset + start)
        if filled < len(buffer):
            raise FormatError(f"{partition.path}: ends inside tensor {entry.name!r}")


def need_checkpoint(files: OpenFiles, doing: str) -> None:
    """Refuse plain safetensors, where only a checkpoint will do."""
    if isinstance(files, PlainFiles):
        raise FormatError(
            f"{files.path}: plain safetensors, no ckptfmt checkpoint, which {doing} needs",
            hint=_conversion_of(files.path),
        )


def _conversion_of(path: str) -> str:
    name = path.rstrip("/").removesuffix(".index.json").removesuffix(".safetensors")
    return f"convert it first: ckptfmt convert {path} {name}.ckpt"


def _check_range(partition: Partition, entry: TensorEntry) -> None:
    end = sum(e.offset + e.nbytes for e in entry.extents)
    wanted = DTYPES[entry.dtype].nbytes(entry.shape)
    if end > partition.file_nbytes or entry.nbytes != wanted:
        raise SourceError(
            f"{partition.path}: tensor {entry.name!r}, {entry.dtype} {list(entry.shape)}, has "
            f"{entry.nbytes} bytes up to {end}, expected {wanted}; the file has "
            f"{partition.file_nbytes}",
            hint="it changed while it was being opened, or was cut short: fetch it again",
        )
