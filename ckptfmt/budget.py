"""What jobs that run side by side may take together. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Need:
    """What one job takes.

    Attributes
    ----------
    memory_nbytes : int
        While it runs.
    disk_nbytes : int
        What it writes.
    """

    memory_nbytes: int
    disk_nbytes: int


@dataclass(slots=True)
class Budget:
    """What there is.

    Attributes
    ----------
    memory_nbytes : int
        For all jobs that run at a time.
    disk_nbytes : int or None
        For all targets of a run; None for what their disks have free.
    written_nbytes : int
        Of that, what finished jobs have taken.
    """

    memory_nbytes: int
    disk_nbytes: int | None = None
    written_nbytes: int = 0

    def refusal(self, need: Need, running: Collection[Need]) -> str:
        """Why a job can never begin; empty if it can, now or once others have ended."""
        if need.memory_nbytes > self.memory_nbytes:
            return (
                f"needs {format_nbytes(need.memory_nbytes)} of memory, the budget is "
                f"{format_nbytes(self.memory_nbytes)}"
            )
        if self.disk_nbytes is None:
            return ""
        if need.disk_nbytes > self.disk_nbytes:
            return (
                f"needs {format_nbytes(need.disk_nbytes)} of disk, the budget is "
                f"{format_nbytes(self.disk_nbytes)}"
            )
        left = self.disk_nbytes - self.written_nbytes
        if need.disk_nbytes > left and not running:
            return (
                f"needs {format_nbytes(need.disk_nbytes)} of disk, "
                f"{format_nbytes(left)} are left of the budget of {format_nbytes(self.disk_nbytes)}"
            )
        return ""

    def admits(self, need: Need, running: Collection[Need], room_nbytes: int) -> bool:
        """Whether a job can begin beside those that run.

        Parameters
        ----------
        need : Need
            Of the job.
        running : collection of Need
            Of the others.
        room_nbytes : int
            What its disk has free, without what the others on it have yet to write. A job that
            would run alone begins all the same: it says itself what is missing.
        """
        if need.memory_nbytes + sum(n.memory_nbytes for n in running) > self.memory_nbytes:
            return False
        if self.disk_nbytes is not None:
            taken = self.written_nbytes + sum(n.disk_nbytes for n in running)
            if need.disk_nbytes + taken > self.disk_nbytes:
                return False
        return not running or need.disk_nbytes <= room_nbytes
