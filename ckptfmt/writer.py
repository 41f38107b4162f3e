"""Carry out a write plan: workers take chunks, read, cast, sum up and write them.

The queue is the plan itself; partitions are filled in order, and the worker that finishes the last
chunk of one writes its table and makes it durable.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import _core, dtypes, layout, page_cache
from ckptfmt.errors import FormatError, failing_as
from ckptfmt.input_file import SECTOR
from ckptfmt.layout import Header
from ckptfmt.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from ckptfmt.engine import Progress
    from ckptfmt.sources.base import Readable
    from ckptfmt.target import Target
    from ckptfmt.write_plan import Chunk, WritePlan

CHUNK_NBYTES = 8 << 20


class Writer:
    """Writes the partitions of one conversion.

    Parameters
    ----------
    plan : WritePlan
        What goes where.
    source : Readable
        Where the bytes come from.
    stored : list of str
        The source's dtype of each tensor; where it differs from the plan's, values are cast.
    target : Target
        Locked and begun.
    """

    def __init__(
        self, plan: WritePlan, source: Readable, stored: list[str], target: Target
    ) -> None:
        self.plan = plan
        self.source = source
        self.stored = stored
        self.folder = target.partial
        self.crcs: list[npt.NDArray[np.uint32]] = [
            np.zeros(p.table_nbytes // 4 - 1, np.uint32) for p in plan.partitions
        ]
        self.done_nbytes = 0
        self._files: dict[int, _OutputFile] = {}
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def path(self, number: int) -> str:
        """Where a partition is being written."""
        return os.path.join(self.folder, self.plan.partitions[number].file)

    def take_up(self, number: int) -> None:
        """Believe a partition that an earlier run finished, once its size and table are right."""
        path = self.path(number)
        expected = self.plan.file_nbytes[number]
        with failing_as(path, "cannot be taken over"), open(path, "rb") as stream:
            found = os.fstat(stream.fileno()).st_size
            if found != expected:
                raise FormatError(
                    f"{path}: {found} bytes, a finished partition has {expected}",
                    hint="something changed the unfinished conversion: --force begins anew",
                )
            table = self.plan.partitions[number].table_nbytes
            stream.seek(expected - table)
            self.crcs[number] = layout.unpack_table(stream.read(table), path)

    def run(
        self,
        skip: set[int],
        workers: int,
        progress: Progress | None,
        *,
        on_done: Callable[[int], None],
        on_stop: Callable[[], None],
    ) -> None:
        """Write all partitions but those in `skip`; raise the first error once all have stopped.

        Parameters
        ----------
        skip : set of int
            Partitions that are done.
        workers : int
            Threads.
        progress : callable, optional
            Called with bytes done and bytes in all.
        on_done : callable
            Called with a partition's number once it is durable.
        on_stop : callable
            Called if no more will be read: a source that waits for bytes need not then.
        """
        self._on_done, self._on_stop = on_done, on_stop
        chunks = [c for c in self.plan.chunks(CHUNK_NBYTES) if c.partition not in skip]
        for chunk in chunks:
            self._left[chunk.partition] = self._left.get(chunk.partition, 0) + 1
        total = sum(p.nbytes for c in chunks for p in c.pieces)
        queue = iter(chunks)
        try:
            run_workers(
                lambda: self._work(queue), min(workers, len(chunks)), name="ckptfmt-write",
                stop=self.stop,
                tick=None if progress is None else lambda: progress(self.done_nbytes, total),
            )  # fmt: skip
        finally:
            for file in self._files.values():
                file.close()
            self._files.clear()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Take no further chunk."""
        self._stop.set()
        self._on_stop()

    def write_headers(self, checkpoint_id: bytes) -> None:
        """Last of all: the id is a hash over the checksums, so it is only known now."""
        count = len(self.plan.partitions)
        for number, entry in enumerate(self.plan.partitions):
            header = Header(
                self.plan.alignment, checkpoint_id, number, count,
                entry.payload_nbytes, entry.table_nbytes,
            )  # fmt: skip
            with failing_as(self.path(number), "cannot be written"):
                fd = os.open(self.path(number), os.O_WRONLY | os.O_CLOEXEC)
                try:
                    write_all(fd, memoryview(header.pack()), 0)
                    os.fsync(fd)
                finally:
                    os.close(fd)

    # ---- in the workers ----

    def _work(self, queue: Any) -> None:
        try:
            buffers = _Buffers(self.plan.alignment)
            while not self._stop.is_set():
                with self._lock:
                    chunk = next(queue, None)
                    if chunk is None:
                        return
                    file = self._file(chunk.partition)
                self._write_chunk(chunk, file, buffers)
                self._chunk_done(chunk, file)
        except BaseException as error:  # handed to the thread that waits
            with self._lock:
                self._error = self._error or error
            self.stop()

    def _file(self, number: int) -> _OutputFile:
        file = self._files.get(number)
        if file is None:
            path, nbytes = self.path(number), self.plan.file_nbytes[number]
            with failing_as(path, "cannot be written"):
                file = self._files[number] = _OutputFile(path)
                _preallocate(file.fd, nbytes)
        return file

    def _write_chunk(self, chunk: Chunk, file: _OutputFile, buffers: _Buffers) -> None:
        alignment = self.plan.alignment
        start = chunk.pieces[0].offset
        last = chunk.pieces[-1]
        span = layout.align_up(last.offset + last.nbytes - start, alignment)
        out = buffers.out[:span]
        crcs = self.crcs[chunk.partition]
        for piece in chunk.pieces:
            at = piece.offset - start
            data = out[at : at + piece.nbytes]
            read_as(
                self.source, piece.tensor, self.stored[piece.tensor], piece.start, data,
                self.plan.tensors[piece.tensor].dtype, buffers.raw,
            )  # fmt: skip
            for i, low in enumerate(range(0, piece.nbytes, layout.BLOCK_NBYTES)):
                crcs[piece.block + i] = _core.crc32c(data[low : low + layout.BLOCK_NBYTES])
            end = at + piece.nbytes
            padded = layout.align_up(end, alignment)
            out[end:padded] = bytes(padded - end)
        with failing_as(self.path(chunk.partition), "cannot be written"):
            file.write(out, start)

    def _chunk_done(self, chunk: Chunk, file: _OutputFile) -> None:
        number = chunk.partition
        with self._lock:
            self.done_nbytes += sum(piece.nbytes for piece in chunk.pieces)
            self._left[number] -= 1
            if self._left[number]:
                return
            self._files.pop(number)
        entry = self.plan.partitions[number]
        with failing_as(self.path(number), "cannot be written"):
            try:
                table = layout.pack_table(self.crcs[number])
                write_all(file.fd, memoryview(table), self.plan.alignment + entry.payload_nbytes)
                os.fsync(file.fd)
                page_cache.drop(file.fd)
            finally:
                file.close()
        with self._lock:
            self._on_done(number)


class _OutputFile:
    """A partition that is being written: past the page cache where the system permits it.

    Direct writes cost no pages of the cache, and the disk is at work from the first chunk on rather
    than when the kernel comes to think of it.
    """

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            self.direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:  # tmpfs and others have none
            self.direct_fd = -1

    def write(self, data: memoryview, offset: int) -> None:
        """Write whole sectors that start on one in memory."""
        done = 0
        while self.direct_fd >= 0 and done < len(data) and done % SECTOR == 0:
            try:
                written = os.pwrite(self.direct_fd, data[done:], offset + done)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                break  # a disk that wants more alignment than we have
            if written == 0:
                break
            done += written
        write_all(self.fd, data[done:], offset + done)

    def close(self) -> None:
        os.close(self.fd)
        if self.direct_fd >= 0:
            os.close(self.direct_fd)


class _Buffers:
    """What one worker needs: memory on page borders, allocated once."""

    def __init__(self, alignment: int) -> None:
        self.out = _allocate(CHUNK_NBYTES + alignment)
        self._raw: memoryview | None = None

    def raw(self, nbytes: int) -> memoryview:
        if self._raw is None or len(self._raw) < nbytes:
            self._raw = _allocate(nbytes)
        return self._raw[:nbytes]


def _allocate(nbytes: int) -> memoryview:
    return memoryview(_core.Memory(nbytes).region(0, nbytes, nbytes))


def read_as(
    source: Readable,
    tensor: int,
    stored: str,
    start: int,
    out: memoryview,
    wanted: str,
    allocate: Callable[[int], memoryview] = lambda nbytes: memoryview(bytearray(nbytes)),
) -> None:
    """Fill `out` from byte `start` of a tensor on, cast from `stored` to `wanted` on the way."""
    if stored == wanted:
        source.read_into(tensor, start, out)
        return
    bits, wanted_bits = dtypes.DTYPES[stored].bits, dtypes.DTYPES[wanted].bits
    raw = allocate(len(out) * bits // wanted_bits)
    source.read_into(tensor, start * bits // wanted_bits, raw)
    cast_bytes(raw, stored, out, wanted)


def cast_bytes(raw: memoryview, stored: str, out: memoryview, wanted: str) -> None:
    """Cast the values in `raw` to another floating dtype, rounding to nearest even, into `out`."""
    torch = dtypes.import_torch()
    have = torch.frombuffer(raw, dtype=dtypes.to_torch(dtypes.DTYPES[stored]))
    torch.frombuffer(out, dtype=dtypes.to_torch(dtypes.DTYPES[wanted])).copy_(have)


def _preallocate(fd: int, nbytes: int) -> None:
    """Reserve the space, so that a full disk shows now; never by writing zeros, as glibc would."""
    try:
        _core.fallocate(fd, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise
        os.ftruncate(fd, nbytes)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of it: a short write goes on, one of nothing is an error and never the end."""
    done = 0
    while done < len(data):
        written = os.pwrite(fd, data[done:], offset + done)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += written
