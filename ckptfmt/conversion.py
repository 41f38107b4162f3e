"""``convert``: choose the source, plan, write, let the result appear."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from ckptfmt import index, layout, telemetry, topology
from ckptfmt.chosen import Chosen
from ckptfmt.confirming import Confirming
from ckptfmt.cutting_rules import read_rules
from ckptfmt.errors import FileError, FormatError, NotFoundError, SourceError
from ckptfmt.index import Index
from ckptfmt.options import DEFAULT_PARTITION_NBYTES, ConvertOptions, HubOptions
from ckptfmt.sources import open_source
from ckptfmt.sources.cut import CutSource, for_ranks
from ckptfmt.sources.folder import refuse_collisions
from ckptfmt.target import State, Target
from ckptfmt.units import format_nbytes, format_rate
from ckptfmt.version import VERSION
from ckptfmt.write_plan import plan_write
from ckptfmt.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckptfmt.cutting import Cutting
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
    cutting : Cutting or None
        If tensors were cut for ranks: how many, and why others were not.
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
    cutting: Cutting | None = None
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
    tensor_parallel: int | None = None,
    tensor_parallel_plan: str | os.PathLike[str] | Mapping[str, Any] | None = None,
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
    tensor_parallel : int, optional
        Cut tensors for so many ranks, each of which can then read its pieces alone; 1 joins what
        was cut. A checkpoint that was cut stays so if not given.
    tensor_parallel_plan : path-like or mapping, optional
        A JSON file of rules by name, or these rules; the model's own plan, which transformers
        knows, if not given.
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
    with planned(
        source, target, dtype=dtype, alignment=alignment, partition_size=partition_size,
        include=include, exclude=exclude, workers=workers, force=force, resume=resume,
        hub=hub, revision=revision, token=token, stream=stream,
        tensor_parallel=tensor_parallel, tensor_parallel_plan=tensor_parallel_plan,
    ) as conversion:  # fmt: skip
        return conversion.report if dry_run else conversion.run(progress)


@contextmanager
def planned(
    source: Any,
    target: str | os.PathLike[str],
    *,
    hub: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    stream: bool = False,
    tensor_parallel_plan: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Conversion]:
    """A conversion before it begins, its source open; `options` are those of `convert`."""
    rules = tensor_parallel_plan
    if isinstance(rules, (str, os.PathLike)):
        rules = read_rules(rules)
    checked = ConvertOptions.given(**options, tensor_parallel_plan=rules)
    opened = open_source(
        source, HubOptions(hub=hub, revision=revision, token=token, stream=stream)
    )
    try:
        opened = for_ranks(opened, checked)
        yield Conversion(opened, _name(source, opened), os.fspath(target), checked)
    finally:
        opened.close()


def _name(source: Any, opened: Source) -> str:
    """What provenance calls the source; a live object has no name."""
    description = opened.description
    if not description.files:
        return ""
    named: str = description.provenance.get("repository") or os.path.abspath(source)
    return os.path.basename(named)


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
        self.topology = description.topology
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
            cutting=source.cutting if isinstance(source, CutSource) else None,
        )

    def run(self, progress: Progress | None) -> ConvertReport:
        """Write it. See `convert` for what is raised."""
        with telemetry.span("convert", path=self.target) as span:
            began = time.perf_counter()
            report = self._written(progress)
            seconds = time.perf_counter() - began
            span.set(nbytes=report.nbytes, seconds=seconds, checkpoint_id=report.checkpoint_id)
            telemetry.log.info(
                "converted %s, %d tensors in %d partitions, to %s in %.3f s: %s",
                format_nbytes(report.nbytes), len(report.plan.tensors),
                len(report.plan.partitions), report.path, seconds,
                format_rate(report.nbytes, seconds),
            )  # fmt: skip
        return report

    def _written(self, progress: Progress | None) -> ConvertReport:
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

    def disk_nbytes(self, done: Collection[int] = ()) -> int:
        """What has to be written, when the partitions `done` are there."""
        sizes = self.plan.file_nbytes
        needed = sum(nbytes for number, nbytes in enumerate(sizes) if number not in done)
        return needed + sum(os.path.getsize(s.path) for s in self.source.description.sidecars)

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
        if self.topology is not None:
            whose = [[t.rank, t.names, t.shape] for t in self.plan.tensors]
            identity["ranks"] = hashlib.sha256(msgspec.json.encode(whose)).hexdigest()
        origin = self.source.description.provenance
        if "repository" in origin:
            # The client's cache may be another one, with other times.
            identity |= {key: origin[key] for key in ("hub", "repository", "commit")}
        return identity

    def _check_space(self, target: Target, done: list[int]) -> None:
        """Refuse before writing what the disk cannot hold."""
        needed = self.disk_nbytes(done)
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
        content = [self.plan.alignment, self.plan.partitions, self.plan.tensors, self.provenance]
        if self.topology is not None:
            content.append(self.topology)
        digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic"))
        for crcs in writer.crcs:
            digest.update(crcs.astype("<u4").tobytes())
        return digest.digest()[:16]

    def _index(self, checkpoint_id: bytes) -> Index:
        return Index(
            format=index.FORMAT_NAME,
            version=(layout.MAJOR, layout.MINOR),
            requires=() if self.topology is None else (topology.FEATURE,),
            id=checkpoint_id.hex(),
            alignment=self.plan.alignment,
            block_nbytes=layout.BLOCK_NBYTES,
            partitions=self.plan.partitions,
            tensors=self.plan.tensors,
            topology=self.topology,
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
