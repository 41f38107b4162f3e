"""A format-1 checkpoint as a source: to cast it, to cut it differently, to write it back."""

from __future__ import annotations

import os

from ckptfmt import layout
from ckptfmt.checkpoint_files import CheckpointFiles
from ckptfmt.pieces import wholes
from ckptfmt.regrouped import specs_of
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.folder import sidecars_below
from ckptfmt.stored_bytes import StoredBytes


class StoredSource:
    """Verified bytes of a checkpoint's tensors; of one that was cut for ranks, of whole ones.

    Parameters
    ----------
    path : str
        The folder.

    Attributes
    ----------
    files : CheckpointFiles
        The open files.
    stored : list of TensorSpec
        What is in them: pieces, if it was cut.
    bytes : StoredBytes
        Reads that.
    """

    def __init__(self, path: str) -> None:
        self.files = CheckpointFiles(path)
        index = self.files.index
        self.bytes = StoredBytes(self.files)
        self.stored = self.tensors = specs_of(index.tensors)
        self._gathers = None
        self.description = Description("ckptfmt", metadata=dict(index.metadata))
        if index.topology is not None and index.topology.kind == "state":
            self.description.topology = index.topology
        elif index.topology is not None:
            found = wholes(self.stored, index.topology.tensor_parallel)
            made = [whole.of_rank(1, 0) for whole in found]
            self.tensors = [spec for spec, _ in made]
            self._gathers = [gathered for _, gathered in made]
        self.description.provenance = {"id": index.id, "from": index.provenance}
        for partition in self.files.partitions:
            status = os.fstat(partition.fd)
            name = os.path.basename(partition.path)
            self.description.files.append(SourceFile(name, status.st_size, status.st_mtime_ns))
        own = {layout.INDEX_FILE, layout.SUMS_FILE, *(p.file for p in index.partitions)}
        self.description.sidecars = sidecars_below(path, own)[0]

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on; every block touched is verified."""
        if self._gathers is None:
            self.bytes.read_into(tensor, start, buffer)
        else:
            self._gathers[tensor].read_into(self.bytes.read_into, start, buffer)

    def close(self) -> None:
        """Close the checkpoint."""
        self.files.close()
