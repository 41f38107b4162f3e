"""``convert``: choose the source, plan, write, let the result appear."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from ckptfmt import dtypes, index, layout
from ckptfmt.confirming import Confirming
from ckptfmt.errors import FileError, FormatError, NotFoundError, SourceError
from ckptfmt.index import Index
from ckptfmt.options import (
    DEFAULT_PARTITION_NBYTES,
    DEFAULT_WORKERS,
    ConvertOptions,
    HubOptions,
)
from ckptfmt.selection import matcher
from ckptfmt.sources import open_source
from ckptfmt.sources.folder import refuse_collisions
from ckptfmt.target import State, Target
from ckptfmt.units import format_nbytes, parse_nbytes
from ckptfmt.version import VERSION
from ckptfmt.write_plan import TensorSpec, plan_write
from ckptfmt.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptfmt.engine import Progress
    from ckptfmt.sources import Source
    from ckptfmt.write_plan import WritePlan


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did, or with ``dry_run`` would do.

    Attributes
    ----------
    path : str
        The target.
    plan : WritePlan
        Partitions and tensors.
    source_nbytes, nbytes : int
        Bytes of the tensors before and after.
    cast : int
        Tensors that change their dtype.
    sidecars, left_out : list of str
        Files that travel, and those found and not taken.
    dropped : list of str
        Tensor names that the filters leave out.
    resumed : list of int
        Partitions taken over from an unfinished conversion.
    checkpoint_id : str
        Empty for a dry run.
    """

    path: str
    plan: WritePlan
    source_nbytes: int
    nbytes: int
    cast: int
    sidecars: list[str]
    left_out: list[str]
    dropped: list[str]
    resumed: list[int] = field(default_factory=list)
    checkpoint_id: str = ""


def convert(
    source: Any,
    target: str | os.PathLike[str],
    *,
    dtype: str = "keep",
    alignment: int | str = layout.MIN_ALIGNMENT,
    partition_size: int | str = DEFAULT_PARTITION_NBYTES,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    workers: int | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    hub: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    stream: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a checkpoint, or store a live module.

    Parameters
    ----------
    source : path-like, torch.nn.Module, or dict of str to Tensor
        A folder or file of safetensors or zipped torch weights, a format-1 checkpoint, a repository
        on a hub (``hf://ORG/NAME``, ``ms://ORG/NAME``, or ``ORG/NAME`` if there is no such path),
        or a live object, whose tensors must not change meanwhile.
    target : path-like
        The folder to be made.
    dtype : str
        Cast floating tensors of 16 bits and more: ``keep``, ``bf16``, ``fp16``, ``fp32``.
    alignment, partition_size : int or str
        Bytes, units understood (``"64KiB"``, ``"4GB"``).
    include, exclude : str or iterable of str
        Glob patterns on tensor names.
    workers : int, optional
        Threads that read, cast and write; 4 if not given.
    force : bool
        Replace a checkpoint at the target; begin anew where an unfinished conversion is,
        unless `resume` goes on with it.
    resume : bool
        Go on with an unfinished conversion of the same source with the same options.
    dry_run : bool
        Plan only; nothing is written to the target.
    hub : str, optional
        ``huggingface`` or ``modelscope``: the source is a repository there.
    revision : str, optional
        Branch, tag or commit of the repository.
    token : str, optional
        To log in at the hub; otherwise its client's own log-in counts.
    stream : bool
        Convert the repository's files as they come, and keep none of them.
    progress : callable, optional
        Called with bytes done and bytes in all, from this thread.

    Returns
    -------
    ConvertReport
        What was done.

    Raises
    ------
    SourceError, NotFoundError
        The source is incomplete, contradicts itself, or is not there.
    TargetExistsError
        The target exists, or another conversion is writing it.
    FileError
        Reading or writing failed, or there is not enough space. The target does not exist then, and
        finished partitions are kept for ``resume``.
    """
    options = ConvertOptions(
        dtype=dtype,
        alignment=parse_nbytes(alignment),
        partition_nbytes=parse_nbytes(partition_size),
        include=_patterns(include),
        exclude=_patterns(exclude),
        workers=DEFAULT_WORKERS if workers is None else workers,
        force=force,
        resume=resume,
    )
    opened = open_source(
        source, HubOptions(hub=hub, revision=revision, token=token, stream=stream)
    )
    try:
        name = _name(source, opened)
        conversion = Conversion(opened, name, os.fspath(target), options)
        if dry_run:
            return conversion.report
        return conversion.run(progress)
    finally:
        opened.close()


def _name(source: Any, opened: Source) -> str:
    """What provenance calls the source; a live object has no name."""
    description = opened.description
    if not description.files:
        return ""
    named: str = description.provenance.get("repository") or os.path.abspath(source)
    return os.path.basename(named)


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern is no list of letters."""
    return (given,) if isinstance(given, str) else tuple(given)


class Chosen:
    """A source with some of its tensors left out and some planned in another dtype."""

    def __init__(self, source: Source, options: ConvertOptions) -> None:
        self.source = source
        self.positions: list[int] = []
        self.stored: list[str] = []
        self.tensors: list[TensorSpec] = []
        self.dropped: list[str] = []
        row = dtypes.cast_target(options.dtype)
        include = matcher(options.include) if options.include else None
        exclude = matcher(options.exclude) if options.exclude else None
        for position, spec in enumerate(source.tensors):
            names = tuple(
                name
                for name in spec.names
                if (include is None or include.match(name))
                and (exclude is None or not exclude.match(name))
            )
            self.dropped += [name for name in spec.names if name not in names]
            if not names:
                continue
            cast = row is not None and dtypes.DTYPES[spec.dtype].is_float
            self.positions.append(position)
            self.stored.append(spec.dtype)
            self.tensors.append(
                TensorSpec(names, row.name if row and cast else spec.dtype, spec.shape)
            )
        if source.tensors and not self.tensors:
            raise SourceError("the filters leave no tensor", hint="see --include and --exclude")
        if self.stored != [spec.dtype for spec in self.tensors]:
            dtypes.import_torch()  # say so now, not after an hour

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        self.source.read_into(self.positions[tensor], start, buffer)


class Conversion:
    """One conversion: planned on construction, carried out by `run`."""

    def __init__(self, source: Source, name: str, target: str, options: ConvertOptions) -> None:
        self.source = source
        self.options = options
        self.target = target
        self.chosen = Chosen(source, options)
        self.plan = plan_write(
            self.chosen.tensors,
            alignment=options.alignment,
            partition_nbytes=options.partition_nbytes,
        )
        description = source.description
        refuse_collisions(description.sidecars, len(self.plan.partitions))
        self.provenance = {
            "tool": f"ckptfmt {VERSION}",
            "options": options.content(),
            "source": {
                "kind": description.kind,
                "name": _text(name),
                "files": [{"name": _text(f.name), "nbytes": f.nbytes} for f in description.files],
                **description.provenance,
            },
        }
        self._refuse_unreadable(name or description.kind)
        self.report = ConvertReport(
            path=target,
            plan=self.plan,
            source_nbytes=sum(
                source.tensors[p].nbytes for p in self.chosen.positions
            ),
            nbytes=sum(spec.nbytes for spec in self.chosen.tensors),
            cast=sum(
                spec.dtype != stored
                for spec, stored in zip(self.chosen.tensors, self.chosen.stored, strict=True)
            ),
            sidecars=[s.name for s in description.sidecars],
            left_out=description.left_out,
            dropped=self.chosen.dropped,
        )

    def run(self, progress: Progress | None) -> ConvertReport:
        """Write it. See `convert` for what is raised."""
        identity = self._identity()
        _check_parent(self.target)
        with Target(self.target, force=self.options.force) as target:
            done = target.begin(identity, resume=self.options.resume)
            self._check_space(target, done)

            def note(numbers: list[int]) -> None:
                target.write_state(State(identity, list(numbers)))

            writer = Writer(self.plan, self.chosen, self.chosen.stored, target)
            for number in done:
                writer.take_up(number)
            confirming = Confirming(self.plan, self.chosen, done, note)
            try:
                writer.run(
                    set(done), self.options.workers, progress,
                    on_done=confirming.on_written, on_stop=confirming.stop,
                )  # fmt: skip
                confirming.finish()
            finally:
                confirming.stop()
            checkpoint_id = self._checkpoint_id(writer)
            writer.write_headers(checkpoint_id)
            for sidecar in self.source.description.sidecars:
                target.copy_file(sidecar.path, sidecar.name)
            target.write_file(layout.INDEX_FILE, index.encode(self._index(checkpoint_id)))
            target.write_sums()
            target.finish()
        return replace(self.report, resumed=list(done), checkpoint_id=checkpoint_id.hex())

    def _refuse_unreadable(self, where: str) -> None:
        """What `open` would refuse is refused before a byte is written, not after the last one."""
        try:
            index.decode(index.encode(self._index(bytes(16))), where)
        except FormatError as error:
            raise SourceError(f"cannot be stored: {error}") from error

    def _identity(self) -> dict[str, object]:
        """What must be the same to resume. A live object has no identity of its own."""
        files = [[_text(f.name), f.nbytes, f.mtime_ns] for f in self.source.description.files]
        if self.options.resume and not files:
            raise SourceError(
                "a live object cannot be resumed: nothing tells whether it changed",
                hint="use force=True to begin anew",
            )
        identity: dict[str, object] = {
            "tool": VERSION, "source": files, "options": self.options.content(),
        }  # fmt: skip
        origin = self.source.description.provenance
        if "repository" in origin:
            # The client's cache may be another one, with other times.
            identity |= {key: origin[key] for key in ("hub", "repository", "commit")}
        return identity

    def _check_space(self, target: Target, done: list[int]) -> None:
        """Refuse before writing what the disk cannot hold."""
        sizes = self.plan.file_nbytes
        needed = sum(nbytes for number, nbytes in enumerate(sizes) if number not in done)
        needed += sum(os.path.getsize(s.path) for s in self.source.description.sidecars)
        free = os.statvfs(target.partial)
        room = free.f_bavail * free.f_frsize
        if needed > room:
            raise FileError(
                errno.ENOSPC,
                f"needs {format_nbytes(needed)}, {format_nbytes(room)} are free",
                self.target,
                hint="free space or choose another disk",
            )

    def _checkpoint_id(self, writer: Writer) -> bytes:
        """A hash over plan and checksums: equal for equal conversions, another for other bytes."""
        digest = hashlib.sha256(msgspec.json.encode(
            [self.plan.alignment, self.plan.partitions, self.plan.tensors, self.provenance],
            order="deterministic",
        ))  # fmt: skip
        for crcs in writer.crcs:
            digest.update(crcs.astype("<u4").tobytes())
        return digest.digest()[:16]

    def _index(self, checkpoint_id: bytes) -> Index:
        return Index(
            format=index.FORMAT_NAME,
            version=(layout.MAJOR, layout.MINOR),
            requires=(),
            id=checkpoint_id.hex(),
            alignment=self.plan.alignment,
            block_nbytes=layout.BLOCK_NBYTES,
            partitions=self.plan.partitions,
            tensors=self.plan.tensors,
            metadata=self.source.description.metadata,
            provenance=self.provenance,
        )


def _text(name: str) -> str:
    """A file's name as JSON can hold it: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _check_parent(target: str) -> None:
    parent = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(parent):
        raise NotFoundError(
            errno.ENOENT, "no such folder to put the target in", parent, hint=f"mkdir -p {parent}"
        )
