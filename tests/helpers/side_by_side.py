"""Which tests pytest-xdist gives to one process: those of a file, and all that share children."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

#: Their cases go into children that are started once in a process, for all the files together.
TOGETHER = "tests/npu/"


class SideBySide(LoadFileScheduling):
    """For ``--dist loadfile``."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)
