"""``.bin``, ``.pt`` and ``.pth`` files: zips, read by ``torch.load(weights_only=True, mmap=True)``.

No pickle is ever run: torch's restricted unpickler refuses anything but tensors and plain
containers, and the old kind without a zip, which cannot be mapped, is refused here.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes, page_cache
from ckptfmt.errors import SourceError, failing_as
from ckptfmt.index import MAX_INDEX_NBYTES
from ckptfmt.sources.base import SourceFile
from ckptfmt.sources.torch_tensors import TorchTensors
from ckptfmt.sources.zips import open_zip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Keys under which training scripts keep the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


class TorchZipSource(TorchTensors):
    """Tensors of one or several torch files; ties within a file are kept.

    Parameters
    ----------
    folder : str
        Where the files are.
    files : sequence of str
        Their names below it.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        tensors: dict[str, Any] = {}
        found: list[SourceFile] = []
        self._cold: list[int] = []
        try:
            for file in files:
                path = os.path.join(folder, file)
                with failing_as(path, "cannot be read"):
                    self._note_cold(path)
                    loaded = _load(path)
                for name, tensor in loaded.items():
                    if name in tensors:
                        raise SourceError(
                            f"{path}: tensor {name!r} is also in another file",
                            hint="the folder mixes two checkpoints; convert one file at a time",
                        )
                    tensors[name] = tensor
                status = os.stat(path)
                found.append(SourceFile(file, status.st_size, status.st_mtime_ns))
            super().__init__(tensors, kind="torch", where=folder)
        except BaseException:
            tensors.clear()
            self.close()
            raise
        self.description.files = found

    def _note_cold(self, path: str) -> None:
        if os.path.isfile(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if page_cache.is_cold(fd):
                self._cold.append(fd)
            else:
                os.close(fd)

    def close(self) -> None:
        """Let the tensors go, and with them the mappings; then the pages can."""
        super().close()
        while self._cold:
            fd = self._cold.pop()
            page_cache.drop(fd)
            os.close(fd)


def _is_zip(path: str) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # some damage it does not take for an answer
        return False


def _load(path: str) -> Mapping[str, Any]:
    torch = dtypes.import_torch()
    if not _is_zip(path):
        raise SourceError(
            f"{path}: not a zip archive; it was saved in torch's old format or is cut short",
            hint="if you trust it: torch.save(torch.load(path, weights_only=True), path) once",
        )
    with failing_as(path, "cannot be read"), open(path, "rb") as stream:
        archive = open_zip(path, stream)
        if any(info.file_size > max(info.compress_size, MAX_INDEX_NBYTES)
               for info in archive.infolist()):  # fmt: skip
            raise SourceError(f"{path}: is packed, as torch never does: a zip bomb")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError,
        AttributeError, IndexError, OverflowError, AssertionError,
    ) as error:  # fmt: skip - whatever damaged pickles make torch's unpickler stumble over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{path}: cannot be read as weights alone: {reason}",
            hint="it holds other objects than tensors; ckptfmt runs no code from a checkpoint. "
            "Save the state dict alone",
        ) from error
    if isinstance(found, dict) and not any(hasattr(v, "untyped_storage") for v in found.values()):
        for key in WRAPPERS:
            if isinstance(found.get(key), dict):
                found = found[key]
                break
    if not isinstance(found, dict):
        raise SourceError(f"{path}: holds a {type(found).__name__}, expected a dict of tensors")
    return found
