"""What became of each item of a batch: a record, and the file of records."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from ckptfmt.errors import failing_as


class Failure(msgspec.Struct, kw_only=True):
    """Why an item failed.

    Attributes
    ----------
    type : str
        Name of the exception, or ``killed``.
    message : str
        Its text.
    hint : str or None
        The next step.
    """

    type: str
    message: str
    hint: str | None = None


class Result(msgspec.Struct, kw_only=True):
    """What became of one item.

    Attributes
    ----------
    item, line : int
        Its number and its line in the manifest.
    source, target : str
        From where to where.
    outcome : str
        ``done``, ``skipped`` (it was done before), ``failed`` or ``stopped`` (by Ctrl-C, or before
        it began).
    nbytes : int
        Of its tensors.
    id : str
        Of the checkpoint.
    resumed : int
        Partitions taken over from a conversion that was cut off.
    seconds : float
        It took.
    host : str
        Where it ran.
    ended : str
        When it ended, UTC.
    error : Failure or None
        Why it failed.
    messages : list of str
        What it wrote on stderr: warnings, for the most part.
    """

    item: int
    line: int
    source: str
    target: str
    outcome: Literal["done", "skipped", "failed", "stopped"]
    nbytes: int = 0
    id: str = ""
    resumed: int = 0
    seconds: float = 0.0
    host: str = ""
    ended: str = ""
    error: Failure | None = None
    messages: list[str] = []


class ReportFile:
    """JSON lines, one for each item that ended. Runs add to what is there.

    A line is written at once and made durable. One that a kill has cut off stays alone on its line;
    one that cannot be written, because the disk is full, is tried again with the next.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._waiting = b""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with failing_as(path, "cannot be written"):
            self._fd = os.open(path, flags, 0o666)
        try:
            with failing_as(path, "cannot be read"):
                size = os.fstat(self._fd).st_size
                if size and os.pread(self._fd, 1, size - 1) != b"\n":
                    self._waiting = b"\n"
        except BaseException:
            os.close(self._fd)
            raise

    def add(self, result: Result) -> None:
        """Write a record."""
        self._waiting += msgspec.json.encode(result) + b"\n"
        try:
            self._write()
        except OSError:
            return  # `close` tells, if it does not go then

    def _write(self) -> None:
        with failing_as(self.path, "cannot be written"):
            while self._waiting:
                written = os.write(self._fd, self._waiting)
                self._waiting = self._waiting[written:]
            os.fsync(self._fd)

    def close(self) -> None:
        """Write what is left. Safe to call twice."""
        if self._fd < 0:
            return
        try:
            if self._waiting:
                self._write()
        finally:
            os.close(self._fd)
            self._fd = -1
