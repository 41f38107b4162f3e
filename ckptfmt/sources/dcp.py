"""torch's distributed checkpoints: ``.metadata`` and ``__0_0.distcp``, ``__1_0.distcp``, ….

The metadata is read and checked without torch; from it objects of torch are made, and torch's own
planner and reader join the pieces of each tensor, which they load with ``weights_only``. That needs
the memory of a tensor at a time.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

from ckptfmt import dtypes
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import MissingDependencyError, SourceError, failing_as
from ckptfmt.sources.base import Description
from ckptfmt.sources.dcp_metadata import DcpMetadata, Piece
from ckptfmt.sources.zips import FileSlice, open_zip
from ckptfmt.write_plan import TensorSpec

#: Loaded tensors that are kept, in bytes; the last two always are.
KEPT_NBYTES = 256 << 20
#: Before it, pieces of tensors were loaded as full pickles.
OLDEST_TORCH = (2, 6)


class DcpSource:
    """The tensors of one folder; objects that are no tensors have to be left out by name.

    Parameters
    ----------
    folder : str
        Where ``.metadata`` is.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._torch = _import_torch()
        self._found = DcpMetadata(folder)
        self.description = Description(
            "dcp", files=self._found.files, unsupported=self._found.unsupported
        )
        self.tensors: list[TensorSpec] = []
        for name, tensor in self._found.tensors.items():
            dtypes.to_torch(DTYPES[tensor.dtype])  # a torch that is too old says so now
            shape, pack = tensor.shape, DTYPES[tensor.dtype].pack
            if pack > 1:
                shape = (*shape[:-1], shape[-1] * pack)
            self.tensors.append(TensorSpec((name,), tensor.dtype, shape))
        sizes = sorted((spec.nbytes for spec in self.tensors), reverse=True)
        # One that is joined, and what is kept: two of any size, more up to a sum.
        self.description.memory_nbytes = sum(sizes[:1]) + max(sum(sizes[:2]), min(
            sum(sizes), KEPT_NBYTES
        ))  # fmt: skip
        self._reader, self._metadata = self._torch_objects()
        self._loaded: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _torch_objects(self) -> tuple[Any, Any]:
        """torch's reader of the folder, and its metadata, made anew from what has been checked."""
        from torch.distributed.checkpoint import FileSystemReader, metadata  # noqa: PLC0415

        size = self._torch.Size
        entries, stored = {}, {}
        for name, tensor in self._found.tensors.items():
            dtype = dtypes.to_torch(DTYPES[tensor.dtype])
            entries[name] = metadata.TensorStorageMetadata(
                metadata.TensorProperties(dtype=dtype), size(tensor.shape),
                [metadata.ChunkStorageMetadata(size(p.offsets), size(p.sizes))
                 for p in tensor.pieces],
            )  # fmt: skip
            for piece in tensor.pieces:
                stored[metadata.MetadataIndex(name, piece.offsets)] = SimpleNamespace(
                    relative_path=piece.file, offset=piece.offset, length=piece.nbytes,
                    transform_descriptors=None,
                )  # fmt: skip
        made = metadata.Metadata(entries, storage_data=stored)
        reader = FileSystemReader(self.folder)
        reader.set_up_storage_reader(made, True)
        return reader, made

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on."""
        with self._lock:
            value = self._loaded.pop(tensor, None)
            if value is None:
                value = self._load(self.tensors[tensor].names[0])
            self._loaded[tensor] = value
            while len(self._loaded) > 2 and (
                sum(kept.nbytes for kept in self._loaded.values()) > KEPT_NBYTES
            ):
                self._loaded.popitem(last=False)
        buffer[:] = memoryview(value[start : start + len(buffer)])

    def _load(self, name: str) -> Any:
        """All bytes of one tensor, joined by torch."""
        from torch.distributed.checkpoint import DefaultLoadPlanner  # noqa: PLC0415

        for piece in self._found.tensors[name].pieces:
            self._refuse_bomb(name, piece)
        entry = self._metadata.state_dict_metadata[name]
        value = self._torch.empty(entry.size, dtype=entry.properties.dtype)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            planner.set_up_planner({name: value}, self._metadata, True)
            (plan,) = planner.create_global_plan([planner.create_local_plan()])
            self._reader.read_data(planner.finish_plan(plan), planner).wait()
        except (
            RuntimeError, ValueError, AssertionError, pickle.UnpicklingError, EOFError, KeyError,
            TypeError, AttributeError, IndexError, OverflowError,
        ) as error:  # fmt: skip
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise SourceError(
                f"{self.folder}: tensor {name!r} cannot be read: {reason}",
                hint="the files are damaged, or hold other objects than tensors",
            ) from error
        return value.view(-1).view(self._torch.uint8).numpy()

    def _refuse_bomb(self, name: str, piece: Piece) -> None:
        """A piece is an archive of its own, in which torch packs nothing."""
        path = os.path.join(self.folder, piece.file)
        with failing_as(path, "cannot be read"), open(path, "rb") as stream:
            archive = open_zip(path, FileSlice(stream, piece.offset, piece.nbytes))
            if sum(info.file_size for info in archive.infolist()) > piece.nbytes:
                raise SourceError(f"{path}: a piece of tensor {name!r} is packed: a zip bomb")

    def close(self) -> None:
        """Let the tensors go. Safe to call twice."""
        self._loaded.clear()


def _import_torch() -> Any:
    torch = dtypes.import_torch()
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < OLDEST_TORCH:
        raise MissingDependencyError(
            f"torch {torch.__version__} loads pieces of distributed checkpoints as full pickles",
            hint=f"pip install 'torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}'",
        )
    return torch
