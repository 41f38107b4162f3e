"""One item of a batch: whether it is done already, what it needs, and doing it."""

from __future__ import annotations

import errno
import os
import platform
import time
import traceback
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from ckptfmt import layout
from ckptfmt.batch_report import Failure, Result
from ckptfmt.budget import Need
from ckptfmt.checkpoint_files import CheckpointFiles
from ckptfmt.conversion import planned
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import CkptError, FormatError, TargetExistsError
from ckptfmt.verification import verify as verify_checkpoint
from ckptfmt.writer import CHUNK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.conversion import Conversion
    from ckptfmt.engine import Progress
    from ckptfmt.index import Index
    from ckptfmt.manifest import Item

#: Between two tries to write a target that another conversion is writing.
RETRY_S = 1.0


def perform(
    item: Item,
    *,
    verify: bool = False,
    patience_s: float = 0.0,
    admit: Callable[[Need], None] = lambda need: None,
    progress: Progress | None = None,
) -> Result:
    """Do an item, or find that it is done; every failure becomes a part of the result.

    Parameters
    ----------
    item : Item
        Relative sources begin in the current folder.
    verify : bool
        Check all bytes: of what is there already, and of what was made.
    patience_s : float
        How long to wait for another conversion that writes the target.
    admit : callable
        Called with what it needs, before it writes; returns when it may.
    progress : callable, optional
        Called with bytes done and bytes in all.
    """
    result = empty_result(item)
    began = time.monotonic()
    try:
        while True:
            try:
                _perform(item, result, verify, admit, progress)
                break
            except TargetExistsError as error:
                if error.errno != errno.EAGAIN or time.monotonic() - began > patience_s:
                    raise
                time.sleep(RETRY_S)
    except (CkptError, OSError, MemoryError) as error:
        hint = getattr(error, "hint", None)
        fail(result, type(error).__name__, str(error) or "out of memory", hint)
    except KeyboardInterrupt:
        result.outcome = "stopped"
    except Exception as error:  # a fault in ckptfmt or below: the other items go on
        traceback.print_exc()
        fail(result, type(error).__name__, f"unexpected: {error}", "a fault: please report it")
    return ended(result, time.monotonic() - began)


def empty_result(item: Item) -> Result:
    """A result of which only the item is known."""
    return Result(
        item=item.number, line=item.line, source=item.source, target=item.target,
        outcome="stopped", host=platform.node(),
    )  # fmt: skip


def fail(result: Result, kind: str, message: str, hint: str | None = None) -> Result:
    """Turn a result into a failure."""
    result.outcome = "failed"
    result.error = Failure(type=kind, message=message, hint=hint)
    return result


def ended(result: Result, seconds: float) -> Result:
    """Note when it ended."""
    result.seconds = round(seconds, 3)
    result.ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return result


def _perform(
    item: Item,
    result: Result,
    verify: bool,
    admit: Callable[[Need], None],
    progress: Progress | None,
) -> None:
    with planned(item.source, item.target, **item.options) as conversion:
        result.nbytes = conversion.report.nbytes
        done = _done_before(conversion, verify)
        if done is not None:
            result.outcome, result.id = "skipped", done.id
            return
        admit(need_of(conversion))
        report = conversion.run(progress)
    result.id, result.resumed = report.checkpoint_id, len(report.resumed)
    if verify:
        _check_all(item.target)
    result.outcome = "done"


def need_of(conversion: Conversion) -> Need:
    """Memory of this process, of its source and the workers to come; bytes to be written."""
    workers = min(conversion.options.workers, sum(1 for _ in conversion.plan.chunks(CHUNK_NBYTES)))
    widest = 0.0  # of what is cast: bytes read for a byte written
    chosen = conversion.chosen
    for stored, spec in zip(chosen.stored, chosen.tensors, strict=True):
        if stored != spec.dtype:
            widest = max(widest, DTYPES[stored].bits / DTYPES[spec.dtype].bits)
    each = int(CHUNK_NBYTES * (2 + widest)) + conversion.options.alignment
    memory_nbytes = _resident_nbytes() + workers * each + chosen.source.description.memory_nbytes
    return Need(memory_nbytes, conversion.disk_nbytes())


def _resident_nbytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _done_before(conversion: Conversion, verify: bool) -> Index | None:
    """The index of the target if it is what would be written; None if it is to be written.

    Raises
    ------
    TargetExistsError
        A checkpoint is there that is another one, and may not be replaced.
    FormatError
        One is there that is damaged, and may not be replaced.
    """
    target = conversion.target
    if not os.path.exists(os.path.join(target, layout.INDEX_FILE)):
        return None
    try:
        files = CheckpointFiles(target)  # as it is stored, whoever's the tensors are
        files.close()
        if verify:
            _check_all(target)
    except FormatError as error:
        if conversion.options.force:
            return None
        raise FormatError(str(error), hint="force: true in the manifest makes it anew") from error
    difference = _difference(conversion, files.index)
    if not difference:
        return files.index
    if conversion.options.force:
        return None
    raise TargetExistsError(
        errno.EEXIST, f"the target is of another conversion: {difference}", target,
        hint="force: true in the manifest replaces it",
    )  # fmt: skip


def _check_all(target: str) -> None:
    report = verify_checkpoint(target)
    if not report.ok:
        more = f", and {len(report.problems) - 1} more" if len(report.problems) > 1 else ""
        raise FormatError(f"{target}: {report.problems[0]}{more}")


def _difference(conversion: Conversion, index: Index) -> str:
    """How a checkpoint differs from what would be written, by all but its bytes."""
    wanted = msgspec.json.decode(msgspec.json.encode(conversion.provenance))
    for part in ("options", "source"):
        text = _first_difference(part, index.provenance.get(part), wanted[part])
        if text:
            return text
    if (index.tensors, index.partitions) != (conversion.plan.tensors, conversion.plan.partitions):
        return "it has other tensors"
    return _newer(conversion)


def _first_difference(name: str, found: Any, wanted: Any) -> str:
    if found == wanted:
        return ""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            text = _first_difference(f"{name}.{key}", found.get(key), wanted.get(key))
            if text:
                return text
    if isinstance(found, list) and isinstance(wanted, list) and name.endswith("files"):
        return f"{name} are others, or of other sizes"
    return f"{name} was {found!r} and is {wanted!r}"


def _newer(conversion: Conversion) -> str:
    """A file of the source that has changed since, or that did not come along."""
    if "commit" in conversion.source.description.provenance:
        return ""  # a repository's files are those of its commit, whenever they were fetched
    made = os.stat(os.path.join(conversion.target, layout.INDEX_FILE)).st_mtime_ns
    description = conversion.source.description
    for file in description.files:
        if file.mtime_ns > made:
            return f"{file.name} is newer"
    for sidecar in description.sidecars:
        if not os.path.exists(os.path.join(conversion.target, sidecar.name)):
            return f"{sidecar.name} is not in it"
        if os.stat(sidecar.path).st_mtime_ns > made:
            return f"{sidecar.name} is newer"
    return ""
