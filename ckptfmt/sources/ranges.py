"""Tensors that stand in files as they are: each one run of bytes, or several.

What safetensors, ServerlessLLM Store, GGUF and MindSpore have in common once their headers are
read.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckptfmt import page_cache
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import FileError, SourceError, failing_as
from ckptfmt.input_file import UnalignedReads, open_direct, read_into
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.limits import refuse_irregular
from ckptfmt.write_plan import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Run(NamedTuple):
    """Bytes of a tensor: number of the file, offset from its start, length."""

    file: int
    offset: int
    nbytes: int


@dataclass(slots=True)
class RangeFile:
    """An open file. ``direct_fd`` is -1 where there are no direct reads, or the file is cached."""

    path: str
    fd: int
    direct_fd: int
    cold: bool
    nbytes: int


class RangeSource:
    """Base of such sources: they open files and add tensors, in the order to be read in.

    Parameters
    ----------
    kind : str
        For provenance.
    """

    def __init__(self, kind: str) -> None:
        self.tensors: list[TensorSpec] = []
        self.description = Description(kind)
        self.files: list[RangeFile] = []
        self.runs: list[tuple[Run, ...]] = []  # of each tensor
        self._unaligned = UnalignedReads()

    def open_file(self, folder: str, name: str) -> int:
        """Open a file and note it in the description; its number."""
        path = os.path.join(folder, name)
        refuse_irregular(path)
        with failing_as(path, "cannot be read"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(fd)
            cold = page_cache.is_cold(fd)
            self.files.append(RangeFile(path, fd, -1, cold, status.st_size))
            if cold:
                self.files[-1].direct_fd = open_direct(path, fd)[0]
        self.description.files.append(SourceFile(name, status.st_size, status.st_mtime_ns))
        return len(self.files) - 1

    def add(
        self, names: Sequence[str], dtype: str, shape: tuple[int, ...], runs: Sequence[Run]
    ) -> None:
        """Add a tensor. Its runs must lie in their files and have its bytes, no more."""
        spec = TensorSpec(tuple(names), dtype, shape)
        for run in runs:
            file = self.files[run.file]
            if run.offset < 0 or run.offset + run.nbytes > file.nbytes:
                raise SourceError(
                    f"{file.path}: tensor {names[0]!r} has bytes {run.offset}.."
                    f"{run.offset + run.nbytes}, the file ends at {file.nbytes}",
                    hint="it was cut short: fetch it again",
                )
        found = sum(run.nbytes for run in runs)
        if found != spec.nbytes:
            where = self.files[runs[0].file].path if runs else self.description.kind
            raise SourceError(
                f"{where}: tensor {names[0]!r} has {found} bytes, "
                f"{DTYPES[dtype].name} {list(shape)} needs {spec.nbytes}"
            )
        self.tensors.append(spec)
        self.runs.append(tuple(runs))

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on."""
        begin = filled = 0
        for run in self.runs[tensor]:
            if filled == len(buffer):
                break
            at = start + filled - begin
            if at < run.nbytes:
                nbytes = min(run.nbytes - at, len(buffer) - filled)
                view = buffer[filled : filled + nbytes]
                self._read(self.files[run.file], run.offset + at, view, tensor)
                filled += nbytes
            begin += run.nbytes

    def _read(self, file: RangeFile, offset: int, view: memoryview, tensor: int) -> None:
        try:
            if file.direct_fd >= 0:
                filled = self._unaligned.read_into(file.fd, file.direct_fd, view, offset)
            else:
                filled = read_into(file.fd, view, offset)
        except OSError as error:
            raise FileError(error.errno or errno.EIO, "cannot be read", file.path) from error
        if filled < len(view):
            raise SourceError(
                f"{file.path}: ends inside tensor {self.tensors[tensor].names[0]!r}",
                hint="the file changed while it was being converted",
            )
        if file.cold and file.direct_fd < 0:
            page_cache.drop(file.fd, offset, len(view))

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        while self.files:
            file = self.files.pop()
            if file.direct_fd >= 0:
                os.close(file.direct_fd)
            if file.cold:
                page_cache.drop(file.fd)
            os.close(file.fd)
