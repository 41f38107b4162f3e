"""The load that is looked at: repeated, traced, and described."""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt import engine, placement
from ckptfmt.bench.pipeline import Way
from ckptfmt.bench.raw_reads import Sample, cpu_seconds
from ckptfmt.devices import bring_up
from ckptfmt.dtypes import import_torch
from ckptfmt.errors import OptionError
from ckptfmt.loading import allocate
from ckptfmt.opening import open_checkpoint
from ckptfmt.plain_files import need_checkpoint
from ckptfmt.regrouped import refuse_regrouped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ckptfmt.accelerator import Accelerator
    from ckptfmt.options import LoadOptions
    from ckptfmt.stats import LoadStats
    from ckptfmt.trace import Trace

#: A tensor's pages that are looked at once it is there: a lazy loader pays for them then.
PAGE_NBYTES = 4096


class Subject:
    """Loads of one checkpoint to one device. Close it, or use it in a ``with``.

    What a load gave is kept until the next one begins, see :meth:`hold`.

    Parameters
    ----------
    path : path-like
        The checkpoint.
    device : str
        ``"cpu"``, ``"npu:N"`` or ``"cuda:N"``.
    options : LoadOptions
        How to read.
    verify : bool
        Compare checksums.

    Attributes
    ----------
    device : Accelerator or None
        Brought up; None for the CPU.
    stats : LoadStats
        Of the latest load.
    """

    def __init__(
        self, path: str | os.PathLike[str], device: str, options: LoadOptions, *, verify: bool
    ) -> None:
        name = placement.normalize(device) if device != "auto" else device
        if name == "auto":
            raise OptionError("bench looks at one device: cpu, npu:N or cuda:N")
        self.name = name
        self.options = options
        self.verify = verify
        self.framework = "torch" if importlib.util.find_spec("torch") else "numpy"
        self.checkpoint = open_checkpoint(path, options=options)
        self.device: Accelerator | None = None
        self._held: Any = None
        self.stats: LoadStats
        try:
            need_checkpoint(self.checkpoint.files, "a benchmark")
            refuse_regrouped(self.checkpoint.files, "bench")
            if not self.checkpoint.nbytes:
                raise OptionError(f"{os.fspath(path)}: its tensors have no bytes to be loaded")
            if name != "cpu":
                self.device = bring_up(name)
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> list[str]:
        """Its partitions."""
        return [partition.path for partition in self.checkpoint.files.partitions]

    @property
    def read_nbytes(self) -> int:
        """What a load reads: tensors and the padding between them."""
        return self.stats.read_nbytes

    @property
    def way(self) -> Way:
        """What the settings came to in the latest load."""
        stats = self.stats
        direct = sum(file.direct_nbytes for file in stats.files.values())
        is_direct = 2 * direct > stats.read_nbytes
        return Way(
            direct=is_direct,
            ring=is_direct and stats.engine == "io_uring",
            threads=stats.threads,
            depth=stats.depth,
            op_nbytes=stats.op_nbytes,
            verify=self.verify,
            waits_for_copies=self.device is not None
            and (self.options.sync_copy or stats.staging.startswith("D")),
        )

    @property
    def can_ring(self) -> bool:
        """Whether io_uring may be used here."""
        return engine.io_uring_errno() == 0

    @property
    def can_direct(self) -> bool:
        """Whether all files can be read past the page cache."""
        return all(p.direct_fd >= 0 for p in self.checkpoint.files.partitions)

    def load(
        self, options: LoadOptions, *, verify: bool, trace: list[Trace] | None = None
    ) -> Sample:
        """Load once, and drop what the load before gave."""

        def run() -> dict[str, Any]:  # opened too, as by ckptfmt.load and by other loaders
            with open_checkpoint(self.checkpoint.path, options=options) as opened:
                found = opened.load(
                    device=self.name, verify=verify, framework=self.framework, trace=trace
                )
                stats = opened.load_stats()
            assert stats is not None
            self.stats = stats
            return found

        return self.timed(run, self.checkpoint.nbytes)

    def timed(self, run: Callable[[], dict[str, Any]], nbytes: int) -> Sample:
        """Call a loader of `nbytes` of tensors, until every page of them is there."""
        self._held = None
        gc.collect()
        before, began = cpu_seconds(), time.perf_counter()
        self._held = run()
        if self.device is None:
            for tensor in self._held.values():
                _touch(tensor)
        else:
            self.device.wait_for_torch()
        seconds = time.perf_counter() - began
        return Sample(nbytes=nbytes, seconds=seconds, cpu_seconds=cpu_seconds() - before)

    def hold(self) -> None:
        """Have as much memory in use as the next load will take, until it begins.

        On a virtual machine, memory that is free for two seconds is the host's, and getting it back
        would be what is measured.
        """
        if self._held is None and self.device is None:
            self._held = memory = allocate(self.checkpoint.nbytes)
            memory.populate(0, memory.nbytes // PAGE_NBYTES * PAGE_NBYTES)

    def release(self) -> None:
        """Drop what the latest load gave: files that are mapped stay in the page cache."""
        self._held = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the files open."""
        with self.checkpoint.files.in_use():
            yield

    def close(self) -> None:
        """Drop the tensors and close the files. Safe to call twice."""
        self.release()
        self.checkpoint.close()

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _touch(tensor: Any) -> None:
    """Read one byte in each page of a tensor's memory."""
    if hasattr(tensor, "untyped_storage"):
        if not tensor.numel():
            return
        torch = import_torch()
        tensor = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    if tensor.size:
        tensor.reshape(-1).view("u1")[::PAGE_NBYTES].max()
