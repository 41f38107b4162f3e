"""The engine with ops made by hand: memory with guards around it, files opened both ways."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ckptfmt import _core
from ckptfmt._core import Engine, Memory, crc32c
from ckptfmt.read_plan import BLOCK_DTYPE, OP_DTYPE

GUARD = 0xA5


def as_bytes(array: npt.NDArray[np.generic]) -> memoryview:
    """An array as the engine takes it; an empty one has no address, so any will do."""
    return memoryview(array.view(np.uint8)) if len(array) else memoryview(bytearray(8))


def need(io: str) -> None:
    """Skip where this machine does not have an I/O table."""
    code = _core.io_uring_errno() if io == "io_uring" else 0
    if code:
        pytest.skip(f"set-up: no io_uring here: {os.strerror(code)}")


def open_direct(path: Path) -> int:
    """Open with O_DIRECT, or skip where the file system has none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"set-up: no direct reads on the temporary folder: {error.strerror}")


@dataclass
class Bench:
    """Files, memory and ops; closes what it opened.

    Attributes
    ----------
    memory : Memory
        Where ops land, filled with a guard value that no file of ours holds.
    """

    nbytes: int
    direct_fds: list[int] = field(default_factory=list)
    buffered_fds: list[int] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    ops: list[tuple[int, ...]] = field(default_factory=list)
    blocks: list[tuple[int, int, int]] = field(default_factory=list)
    wanted: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = Memory(self.nbytes)
        self.view = np.frombuffer(self.memory.region(0, self.nbytes, self.nbytes), np.uint8)
        self.view[:] = GUARD

    def add_file(self, path: Path, content: bytes, *, direct: bool = True) -> int:
        """Write a file and open it both ways; its number."""
        path.write_bytes(content)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.buffered_fds.append(os.open(path, os.O_RDONLY))
        self.direct_fds.append(open_direct(path) if direct else -1)
        self.contents.append(content)
        return len(self.contents) - 1

    def add_op(
        self,
        offset: int,
        nbytes: int,
        *,
        at: int | None = None,
        room: int | None = None,
        file: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> int:
        """Read `nbytes` at `offset` to `at` in memory; `blocks` are sizes that fill it."""
        at = offset if at is None else at
        room = nbytes if room is None else room
        content = self.contents[file][offset : offset + nbytes]
        sizes = [nbytes] if blocks is None else blocks
        assert sum(sizes) == nbytes
        start = 0
        for size in sizes:
            self.blocks.append((start, size, crc32c(content[start : start + size])))
            start += size
        first = len(self.blocks) - len(sizes)
        address = self.memory.address + at
        self.ops.append((offset, address, nbytes, room, file, len(sizes), first))
        self.wanted.append((at, content))
        return len(self.ops) - 1

    def engine(
        self,
        io: str,
        *,
        n_direct: int | None = None,
        depth: int = 8,
        workers: int = 1,
        verify: bool = True,
        **scan: object,
    ) -> Engine:
        """An engine over the ops so far, the first `n_direct` (all) of them direct."""
        need(io)
        return Engine(
            as_bytes(np.array(self.ops, OP_DTYPE)), as_bytes(np.array(self.blocks, BLOCK_DTYPE)),
            as_bytes(np.array(self.direct_fds, np.int32)),
            as_bytes(np.array(self.buffered_fds, np.int32)),
            n_direct=len(self.ops) if n_direct is None else n_direct,
            io=io, depth=depth, workers=workers, verify=verify, **scan,  # type: ignore[arg-type]
        )  # fmt: skip

    def run(self, io: str, **options: object) -> Engine:
        """Carry out the ops to their end or first failure."""
        engine = self.engine(io, **options)  # type: ignore[arg-type]
        work(engine)
        assert not engine.undrained
        return engine

    def check(self) -> None:
        """Every op's bytes are there, and nothing outside the ops' room was touched."""
        touched = np.zeros(self.nbytes, bool)
        for (at, content), op in zip(self.wanted, self.ops, strict=True):
            assert self.view[at : at + len(content)].tobytes() == content
            touched[at : at + op[3]] = True
        assert (self.view[~touched] == GUARD).all()

    def close(self) -> None:
        for fd in [*self.direct_fds, *self.buffered_fds]:
            if fd >= 0:
                os.close(fd)


def work(engine: Engine) -> None:
    """Run the engine's workers in threads of their own until all have returned."""
    threads = [threading.Thread(target=engine.work) for _ in range(engine.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def noise(nbytes: int, seed: int = 0) -> bytes:
    """Random bytes, none of them the guard's."""
    data = np.random.default_rng(seed).integers(0, GUARD, nbytes, np.uint8)
    return data.tobytes()
