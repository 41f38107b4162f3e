"""``verify``: every byte of a checkpoint's folder, and on request its source, tensor by tensor."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ckptfmt import comparison, engine, layout
from ckptfmt import index as index_module
from ckptfmt.errors import CkptError, FormatError, NotFoundError
from ckptfmt.extents import Extents, compact_addresses
from ckptfmt.options import LoadOptions
from ckptfmt.partitions import (
    Partition,
    check_index_sum,
    check_partition,
    expected_header,
    open_folder,
    read_index,
    read_small,
)
from ckptfmt.problems import Problem
from ckptfmt.read_plan import plan_read
from ckptfmt.reading import Reading, Scan
from ckptfmt.target import sums_line

if TYPE_CHECKING:
    from ckptfmt.engine import Progress
    from ckptfmt.index import Index

__all__ = ["Problem", "VerifyReport", "verify"]


@dataclass(slots=True)
class VerifyReport:
    """The outcome of `verify`.

    Attributes
    ----------
    path : str
        The checkpoint.
    problems : list of Problem
        Empty if all is well.
    files, tensors, nbytes : int
        What was looked at; bytes of all files.
    compared : int
        Tensors compared with the source; 0 without ``against``.
    seconds : float
        Time taken.
    """

    path: str
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    tensors: int = 0
    nbytes: int = 0
    compared: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(
        self, file: str, message: str, tensor: str | None = None, offset: int | None = None
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(file, message, tensor, offset))


def verify(
    path: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    options: LoadOptions | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check header, index, padding, every checksum, sidecars, and missing or extra files.

    Parameters
    ----------
    path : path-like
        The checkpoint.
    against : path-like, optional
        Its source: every tensor is compared with it, bit for bit, after the cast and the filters
        that the conversion used.
    options : LoadOptions, optional
        How to read.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Returns
    -------
    VerifyReport
        All problems found, not only the first.

    Raises
    ------
    NotFoundError, FormatError
        There is no checkpoint at all.
    """
    began = time.perf_counter()
    how = options or LoadOptions.from_environment()
    verification = _Verification(os.fspath(path), how, progress)
    report = verification.run()
    if against is not None and report.ok:
        report.compared = comparison.compare(report.path, os.fspath(against), report.problems)
    report.seconds = time.perf_counter() - began
    return report


class _Verification:
    def __init__(self, path: str, options: LoadOptions, progress: Progress | None) -> None:
        self.path = path
        self.options = options
        self.progress = progress
        self.report = VerifyReport(path)
        self.done = self.total = 0

    def run(self) -> VerifyReport:
        dir_fd = open_folder(self.path)
        try:
            data = read_index(dir_fd, self.path)
            sums = self._sums(dir_fd)
            self.report.files = 2
            self.report.nbytes = len(data) + len(sums or b"")
            where = os.path.join(self.path, layout.INDEX_FILE)
            own = [layout.INDEX_FILE, layout.SUMS_FILE]
            try:
                if sums is not None:
                    check_index_sum(data, sums, where)
            except FormatError as error:
                self.report.add(layout.INDEX_FILE, _without(where, error))
            try:
                index = index_module.decode(data, where)
            except FormatError as error:
                self.report.add(layout.INDEX_FILE, _without(where, error))
            else:
                own += [p.file for p in index.partitions]
                self._partitions(dir_fd, index)
            if sums is not None:
                self._sidecars(sums, set(own), hashlib.sha256(data).hexdigest())
        finally:
            os.close(dir_fd)
        return self.report

    def _sums(self, dir_fd: int) -> bytes | None:
        try:
            return read_small(dir_fd, self.path, layout.SUMS_FILE)
        except NotFoundError:
            self.report.add(layout.SUMS_FILE, "missing: the index and the other files go unchecked")
            return None

    # ---- partitions ----

    def _partitions(self, dir_fd: int, index: Index) -> None:
        extents = Extents.of(index)
        self.report.tensors = len(index.tensors)
        self.total = int(extents.span.sum())
        for number, entry in enumerate(index.partitions):
            try:
                partition = Partition.open(dir_fd, self.path, entry.file)
            except CkptError as error:
                self.report.add(entry.file, _without(os.path.join(self.path, entry.file), error))
                continue
            self.report.files += 1
            self.report.nbytes += partition.file_nbytes
            try:
                crcs = check_partition(partition, expected_header(index, number))
                self._header_padding(partition, index)
                self._payload(partition, number, index, extents, crcs)
            except CkptError as error:
                self.report.add(entry.file, _without(partition.path, error))
            finally:
                partition.close()

    def _header_padding(self, partition: Partition, index: Index) -> None:
        rest = partition.read(0, index.alignment)[layout.HEADER_NBYTES :]
        if any(rest):
            file = os.path.basename(partition.path)
            self.report.add(file, "the header is followed by other bytes than zeros")

    def _payload(
        self,
        partition: Partition,
        number: int,
        index: Index,
        extents: Extents,
        crcs: np.ndarray[tuple[int, ...], np.dtype[np.uint32]],
    ) -> None:
        mine = np.flatnonzero(extents.partition == number)
        stored = np.zeros(int(extents.first_block[mine[0]]) + len(crcs), np.uint32)
        stored[len(stored) - len(crcs) :] = crcs
        plan = plan_read(
            extents, mine, compact_addresses(extents, mine), stored,
            op_nbytes=self.options.op_nbytes, padding=True,
        )  # fmt: skip
        plan.ops["file"] = 0
        scan = Scan.of(plan)
        reading = Reading(plan, [partition], self.options, True, _nothing, None, scan)
        engine.run(reading, self._progress)
        self.done += plan.nbytes
        file = os.path.basename(partition.path)
        for i in np.flatnonzero((scan.found != plan.blocks["crc"]) | (scan.dirty != 0)).tolist():
            extent = int(np.searchsorted(extents.first_block, plan.block_ids[i], side="right")) - 1
            at = int(plan.block_ids[i] - extents.first_block[extent]) * layout.BLOCK_NBYTES
            offset = int(extents.offset[extent]) + at
            name = index.tensors[int(extents.tensor[extent])].name
            end = offset + int(plan.blocks["nbytes"][i])
            if scan.dirty[i]:
                self.report.add(file, "the padding that follows is not zero", name, end)
            if scan.found[i] != plan.blocks["crc"][i]:
                message = (
                    f"bytes {offset}..{end}: checksum {int(scan.found[i]):08x}, "
                    f"expected {int(plan.blocks['crc'][i]):08x}"
                )
                self.report.add(file, message, name, offset)

    def _progress(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.done + done, self.total)

    # ---- everything else ----

    def _sidecars(self, sums: bytes, own: set[str], index_digest: str) -> None:
        """The list of sums must be, byte for byte, what it would be if it were made now."""
        listed = parse_sums(sums)
        found: dict[bytes, str] = {os.fsencode(layout.INDEX_FILE): index_digest}
        for name in _files_below(self.path):
            if name in own:
                continue
            if os.fsencode(name) not in listed:
                self.report.add(name, f"an extra file: not listed in {layout.SUMS_FILE}")
                continue
            if not os.path.isfile(os.path.join(self.path, name)):  # a pipe would be waited for
                self.report.add(name, "not a regular file")
                continue
            try:
                found[os.fsencode(name)] = self._digest(name)
            except OSError as error:
                self.report.add(name, f"cannot be read: {error.strerror}")
        before = len(self.report.problems)
        for raw, digest in listed.items():
            name = os.fsdecode(raw)
            if raw not in found:
                if not any(p.file == name for p in self.report.problems):
                    self.report.add(name, f"missing, though {layout.SUMS_FILE} lists it")
            elif found[raw] != digest and name != layout.INDEX_FILE:
                self.report.add(
                    name, f"its SHA-256 is {found[raw]}, {layout.SUMS_FILE} says {digest}"
                )
        expected = b"".join(sums_line(name, digest) for name, digest in sorted(listed.items()))
        if sums != expected and len(self.report.problems) == before:
            self.report.add(layout.SUMS_FILE, "is not in the form that docs/format.md prescribes")

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with open(os.path.join(self.path, name), "rb") as stream:
            while data := stream.read(1 << 20):
                digest.update(data)
                self.report.nbytes += len(data)
        self.report.files += 1
        return digest.hexdigest()


def parse_sums(data: bytes) -> dict[bytes, str]:
    """Names and sums of a list as ``sha256sum`` writes it; other lines are passed over."""
    listed: dict[bytes, str] = {}
    for line in data.split(b"\n"):
        escaped = line.startswith(b"\\")
        digest, separator, name = line[escaped:].partition(b"  ")
        if not separator or len(digest) != 64 or digest.strip(b"0123456789abcdef"):
            continue
        if escaped:
            name = name.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\\r", b"\r")
            name = name.replace(b"\0", b"\\")
        listed[name] = digest.decode()
    return listed


def _files_below(folder: str) -> list[str]:
    found = []
    for path, folders, names in os.walk(folder):
        links = [f for f in folders if os.path.islink(os.path.join(path, f))]
        for name in names + links:
            found.append(os.path.relpath(os.path.join(path, name), folder))
    return sorted(found)


def _without(prefix: str, error: CkptError) -> str:
    """The message of an error without the file it begins with, which the problem names itself."""
    return str(error).removeprefix(prefix).removeprefix(": ")


def _nothing(block: int) -> tuple[str, Partition, int, int]:
    raise AssertionError(f"a scan compares no checksums itself (block {block})")
