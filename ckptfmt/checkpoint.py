"""An open checkpoint: names without reading, tensors in any of the ways people want them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptfmt import (
    device_loading,
    dtypes,
    fill,
    loading,
    selection,
    streaming,
    telemetry,
)
from ckptfmt.devices import Devices
from ckptfmt.errors import OptionError
from ckptfmt.options import LoadOptions
from ckptfmt.plain_files import open_files
from ckptfmt.regrouped import GatheredFiles
from ckptfmt.stats import LoadStats, remember

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from ckptfmt.checkpoint_files import OpenFiles
    from ckptfmt.engine import Progress
    from ckptfmt.index import Index, TensorEntry
    from ckptfmt.rows import Rows
    from ckptfmt.topology import Piece
    from ckptfmt.trace import Trace

#: Read-ahead of ``stream`` if the caller does not say.
STREAM_NBYTES = 512 << 20


class Checkpoint:
    """A checkpoint whose index and partitions are open and checked.

    It may be used from several threads at once. Close it, or use it in a ``with``; tensors that it
    handed out live on.

    Parameters
    ----------
    path : path-like
        The folder. One of plain safetensors, a file of that kind, or the index of several will do,
        too: nothing of it can be verified.
    rank, tensor_parallel : int, optional
        Which of how many ranks this is, of a checkpoint that was cut for ranks or holds their
        state: it has the tensors of that rank. Whole tensors if not given.
    options : LoadOptions, optional
        How to read, where a call does not say; else the environment's.

    Raises
    ------
    NotFoundError
        There is no such folder.
    FormatError
        It is not a checkpoint, or an index, header, size or checksum table is wrong.
    LoadMismatchError
        It holds the state of another number of ranks.
    SourceError
        Plain safetensors are incomplete, or a header is wrong.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rank: int | None = None,
        tensor_parallel: int | None = None,
        options: LoadOptions | None = None,
    ) -> None:
        self.options = options or LoadOptions.from_environment()
        with telemetry.span("open", path=str(path)):
            self.files: OpenFiles = open_files(path, rank, tensor_parallel)
        self.path = self.files.path
        self.index: Index = self.files.index
        self.positions: dict[str, int] = self.files.positions
        self._stats: LoadStats | None = None

    # ---- what is in it ----

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, in order of position."""
        return tuple(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, tied ones once."""
        return self.files.nbytes(self.positions.values())

    @property
    def metadata(self) -> dict[str, str]:
        """The source's own key-value pairs (``__metadata__`` of safetensors)."""
        return dict(self.index.metadata)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from: source, files, options, tool version."""
        return dict(self.index.provenance)

    def info(self, name: str) -> TensorEntry:
        """The entry of one tensor: names, dtype, shape, extents. Nothing is read."""
        position = self.positions.get(name)
        if position is None:
            raise selection.not_found(name, list(self.positions))
        return self.index.tensors[position]

    def cut_of(self, name: str) -> Piece | None:
        """Which part of the whole tensor a rank's is; None if it is all, or not one range."""
        self.info(name)
        return self.files.piece_of(self.positions[name])

    def crc32c(self, name: str) -> int:
        """CRC32C of a whole tensor, combined from those of its blocks. Nothing is read."""
        self.info(name)
        return self.files.crc32c(self.positions[name])

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.positions)

    def __contains__(self, name: object) -> bool:
        return name in self.positions

    def keys(self) -> tuple[str, ...]:
        """The names, so that ``dict(checkpoint)`` reads everything."""
        return self.names

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path!r}: {len(self)} tensors, {self.nbytes} bytes>"

    # ---- reading ----

    def __getitem__(self, name: str) -> Any:
        """Read one tensor, verified where that is possible."""
        self.info(name)
        return self.load([name])[name]

    def load(
        self,
        names: str | Iterable[str] | None = None,
        *,
        device: str | Mapping[str, str] = "cpu",
        dtype: object = None,
        verify: bool | None = None,
        mmap: bool = False,
        framework: str = "torch",
        options: LoadOptions | None = None,
        progress: Progress | None = None,
        no_split: Sequence[str] = (),
        rows: Rows | None = None,
        trace: list[Trace] | None = None,
    ) -> dict[str, Any]:
        """Load tensors. See :func:`ckptfmt.load`; `names` are names or glob patterns.

        What the workers do is added to `trace`, for :func:`ckptfmt.trace.write`.
        """
        with telemetry.span("load", path=self.path) as span:
            row = dtypes.cast_target(dtype)
            # What is cast is read, so nothing is left to map.
            verify = self.files.verified(verify, not mmap or row is not None)
            files, chosen = self.files.wanted(selection.select(self.positions, names), rows)
            request = loading.Request(
                files, chosen, options or self.options,
                verify=verify, framework=framework, progress=progress,
                devices=Devices.meant(device, no_split), traces=trace,
            )  # fmt: skip
            if request.devices is not None and mmap:
                raise OptionError(f"mmap=True maps files into host memory, device is {device!r}")
            if mmap and isinstance(self.files, GatheredFiles):
                raise OptionError("mmap=True maps what is in the files: load as it was cut")
            with self.files.in_use():
                if request.devices is not None:
                    found, stats = device_loading.load(request, request.devices)
                    if row is not None:
                        with telemetry.span("cast"):
                            found = device_loading.cast(found, row, request, request.devices)
                elif row is not None:
                    found, stats = streaming.load_cast(request, row)
                elif mmap:
                    found, stats = loading.map_tensors(request)
                else:
                    found, stats = loading.read_tensors(request)
            self._remember(stats, request, span)
            return found

    def stream(
        self,
        names: str | Iterable[str] | None = None,
        *,
        max_nbytes: int = STREAM_NBYTES,
        device: str | Mapping[str, str] = "cpu",
        verify: bool | None = None,
        framework: str = "torch",
        options: LoadOptions | None = None,
        rows: Rows | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield ``(name, tensor)`` in file order while the next ones are being read.

        Parameters
        ----------
        names : str or iterable of str, optional
            Names or glob patterns; all if not given.
        max_nbytes : int
            Bound, in bytes, on what has been read and not yet been yielded. A single tensor that is
            larger is read alone.
        device : str or mapping of str to str
            As for :meth:`load`; then the bound is on device memory.
        verify : bool, optional
            Compare checksums before a tensor is yielded. On if not given, where there are any.
        framework : str
            ``"torch"`` or ``"numpy"``.
        options : LoadOptions, optional
            How to read.
        rows : mapping of str to (int, int), optional
            As for :func:`ckptfmt.load`.

        Yields
        ------
        (str, Tensor)
            The tensor is the caller's: its memory is its own and is never written again. Tied names
            follow each other and share memory.
        """
        files, chosen = self.files.wanted(selection.select(self.positions, names), rows)
        request = loading.Request(
            files, chosen, options or self.options,
            verify=self.files.verified(verify, True), framework=framework, progress=None,
            devices=Devices.meant(device),
        )  # fmt: skip
        return self._stream(request, max_nbytes)

    def _stream(self, request: loading.Request, max_nbytes: int) -> Iterator[tuple[str, Any]]:
        with self.files.in_use():
            stats = yield from streaming.stream(request, max_nbytes)
        self._stats = stats or self._stats

    def load_into(
        self,
        target: Any,
        *,
        strict: bool = True,
        verify: bool | None = None,
        options: LoadOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Fill the tensors of a module or dict in place, with no second copy of the model.

        Parameters
        ----------
        target : torch.nn.Module or mapping of str to Tensor or ndarray
            What to fill. Contiguous memory of the stored dtype, on the CPU, an NPU or a GPU, is
            filled directly; other tensors are copied into, one at a time.
        strict : bool
            Whether names missing here or unexpected there are errors. A name whose memory is filled
            under another (tied weights) is not missing.
        verify : bool, optional
            Compare checksums. On if not given, where there are any.
        options, progress
            As for :meth:`load`.

        Raises
        ------
        LoadMismatchError
            Names, shapes or dtypes differ; all of them are listed and nothing was changed.
        ChecksumError, FileError
            As for :meth:`load`; the target's tensors are then partly overwritten.
        """
        with telemetry.span("load_into", path=self.path) as span, self.files.in_use():
            stats, request = fill.fill(
                self.files, target, strict=strict, verify=self.files.verified(verify, True),
                options=options or self.options, progress=progress,
            )  # fmt: skip
            self._remember(stats, request, span)

    def read(self, name: str) -> memoryview:
        """The bytes of one tensor, verified, little-endian and row-major, of any dtype."""
        self.info(name)
        request = loading.Request(
            self.files, {name: self.positions[name]}, self.options,
            verify=self.files.verified(None, True), framework="bytes", progress=None,
        )  # fmt: skip
        with self.files.in_use():
            regions, _ = loading.read_regions(request)
        region = regions[self.positions[name]]
        return memoryview(region) if region is not None else memoryview(b"")

    def load_stats(self) -> LoadStats | None:
        """Statistics of the latest load from this object, or stream to its end; else None."""
        return self._stats

    def _remember(
        self, stats: LoadStats, request: loading.Request, span: telemetry.Span
    ) -> None:
        nbytes = request.files.nbytes(request.chosen.values())
        stats = replace(stats, nbytes=nbytes, unverified=request.files.unverified)
        self._stats = remember(stats)
        span.tell(self._stats)
        telemetry.tell_load(self.path, self._stats)

    # ---- end ----

    def close(self) -> None:
        """Close the files, as soon as loads in other threads are done. Safe to call twice."""
        self.files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "files"):
            self.files.close()
