"""safetensors on a hub, converted as they come: no file of theirs is ever on the disk.

Headers come first, and are laid out as files with holes where the tensors would be: what checks a
file on the disk checks them as well, and then tells which bytes are where.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
from typing import TYPE_CHECKING

from ckptfmt.errors import HubError, SourceError, failing_as
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.blocks import BLOCK_NBYTES, WINDOW, Blocks
from ckptfmt.sources.limits import refuse_many
from ckptfmt.sources.safetensors import SafetensorsSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptfmt.sources.repository import Repository, RepositoryFile

#: As the safetensors library has it: a header above this is none.
MAX_HEADER_NBYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
#: What is asked for at first: most headers are smaller.
_FIRST_NBYTES = 256 << 10


class StreamedSource:
    """Tensors of safetensors files in a repository.

    `begin` says what will be read, `read_into` waits for it, `finish` waits for the sums of whole
    files. Until then a partition may hold bytes that turn out to be damaged: `is_confirmed` tells.

    Parameters
    ----------
    repository : Repository
        Where the files are; closed with this.
    files : list of RepositoryFile
        The shards, in the order in which they are read.
    """

    def __init__(self, repository: Repository, files: list[RepositoryFile]) -> None:
        self.repository = repository
        self.files = files
        self.where = str(repository.address)
        #: Called with no argument whenever the sum of a whole file was right.
        self.on_confirmed: Callable[[], None] = lambda: None
        self._blocks: Blocks | None = None
        self._confirmed: set[int] = set()
        folder = tempfile.mkdtemp(prefix="ckptfmt-headers-")
        try:
            for file in files:
                self._outline(folder, file)
            outline = SafetensorsSource(folder, [file.name for file in files])
            outline.close()
        except SourceError as error:
            message = error.message.replace(f"{folder}{os.sep}", f"{self.where}: ")
            raise SourceError(message, hint=error.hint) from error
        finally:
            shutil.rmtree(folder)
        self.tensors = outline.tensors
        self._places = [(run.file, run.offset) for (run,) in outline.runs]
        self.description = Description(
            "safetensors", [SourceFile(f.name, f.nbytes, 0) for f in files],
            metadata=outline.description.metadata,
            memory_nbytes=min(WINDOW * BLOCK_NBYTES, sum(f.nbytes for f in files)),
        )  # fmt: skip

    def _outline(self, folder: str, file: RepositoryFile) -> None:
        """Write a file's header, and a hole of the size of the rest."""
        begin = self._fetch_plain(file, 0, min(file.nbytes, _FIRST_NBYTES))
        nbytes = _LENGTH.unpack_from(begin)[0] if len(begin) >= _LENGTH.size else 0
        end = _LENGTH.size + nbytes
        if nbytes > MAX_HEADER_NBYTES or end > file.nbytes:
            raise SourceError(
                f"{self.where}: {file.name}: not a safetensors file: "
                f"a header of {nbytes} bytes in a file of {file.nbytes}"
            )
        if end > len(begin):
            begin += self._fetch_plain(file, len(begin), end - len(begin))
        refuse_many(f"{self.where}: {file.name}", begin[:end].count(b'"data_offsets"'))
        path = os.path.join(folder, file.name)
        with failing_as(path, "cannot be written"), open(path, "wb") as stream:
            stream.write(begin[:end])
            stream.truncate(file.nbytes)

    def _fetch_plain(self, file: RepositoryFile, start: int, nbytes: int) -> bytes:
        return self.repository.read(file.name, start, nbytes, threading.Event())

    def begin(self, pieces: Iterable[tuple[int, int, int]]) -> None:
        """Start fetching.

        Parameters
        ----------
        pieces : iterable of (int, int, int)
            Tensor, first byte and byte count of all that will be read, in order.
        """

        def ranges() -> Iterable[tuple[int, int, int]]:
            for tensor, start, nbytes in pieces:
                file, offset = self._places[tensor]
                yield file, offset + start, nbytes

        self._blocks = Blocks(self.files, ranges(), self._fetch, self._confirm, self.where)

    def _fetch(self, file: int, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        return self.repository.read(self.files[file].name, start, nbytes, stopped)

    def _confirm(self, file: int) -> None:
        self._confirmed.add(file)
        self.on_confirmed()

    def is_confirmed(self, tensor: int) -> bool:
        """Whether the file of a tensor has come as the hub says it must be, or it says nothing."""
        file = self._places[tensor][0]
        return file in self._confirmed or not self.files[file].digest

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on, waiting until it has come."""
        if self._blocks is None:
            raise HubError(f"{self.where}: is streamed, and can only be converted")
        file, offset = self._places[tensor]
        self._blocks.read_into(file, offset + start, buffer)

    def finish(self) -> None:
        """Wait until all files have come; raise if a sum is wrong."""
        if self._blocks is not None:
            self._blocks.finish()

    def stop(self) -> None:
        """Begin no further request, and wake who waits for bytes."""
        if self._blocks is not None:
            self._blocks.stop()

    def close(self) -> None:
        """Stop, and release connections."""
        self.stop()
        self.repository.close()
