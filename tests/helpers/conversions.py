"""A small conversion of three partitions, carried out in forks, and what it must give."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.fork_server import ForkServer, Result, fault
from tests.helpers.telling import folder_digests

#: Keeps a conversion below a few megabytes, in three partitions.
OPTIONS = {"exclude": ["c.*"], "partition_size": 2 << 20}
CLI_OPTIONS = ("--exclude", "c.*", "--partition-size", "2MiB")

#: A file system that cannot exchange two folders.
NO_EXCHANGE = fault("exchange", errno.EINVAL, onward=True)

CONVERT = """
import json, sys
import ckptfmt
from tests.helpers.conversions import OPTIONS
from tests.helpers.telling import tell
source, target, options = sys.argv[1:]
def convert():
    report = ckptfmt.convert(source, target, **OPTIONS, **json.loads(options))
    return {"id": report.checkpoint_id, "resumed": report.resumed}
tell(convert)
"""
#: Convert (if options are given), verify, and what is there then.
CHECK = """
import json, sys
import ckptfmt
from tests.helpers.conversions import OPTIONS
from tests.helpers.telling import folder_digests
source, target, options = sys.argv[1:]
resumed = []
if options:
    resumed = ckptfmt.convert(source, target, **OPTIONS, **json.loads(options)).resumed
problems = [str(problem) for problem in ckptfmt.verify(target).problems]
print(json.dumps({"resumed": resumed, "problems": problems, "files": folder_digests(target)}))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a conversion of a fault test goes, and what it should become."""

    server: ForkServer
    source: Path
    target: Path
    #: Digests of all files after a conversion without a fault.
    expected: dict[str, str]

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    @property
    def old(self) -> Path:
        return self.target.with_name(self.target.name + ".replaced")

    def convert(self, options: str = "{}", faults: tuple[str, ...] = (), **env: Path) -> Result:
        """Convert with these faults; options are JSON."""
        return self.server.run(CONVERT, self.source, self.target, options, faults=faults, **env)

    def finish(self, options: str = '{"resume": true}') -> list[int]:
        """Go on without faults; verify; compare with what it should be. Partitions taken over."""
        found = self.server.run(CHECK, self.source, self.target, options).value
        assert found["problems"] == []
        assert found["files"] == self.expected
        assert not self.partial.exists()
        assert not self.old.exists()
        return found["resumed"]

    def holds(self, files: dict[str, str]) -> bool:
        """Whether the target is exactly these files."""
        return self.target.is_dir() and folder_digests(self.target) == files

    def at(self, call: str, action: str | int, nth: int = 1, path: str = "") -> str:
        """A fault that only this conversion's own files meet."""
        return fault(call, action, nth=nth, path=path or str(self.target.parent))

    def convert_failing(
        self, call: str, action: str | int, nth: int, options: str = "{}", *, exchange: bool = True
    ) -> Result | None:
        """Convert, with a fault at the n-th `call`; None if there were fewer, and all is well."""
        log = self.target.with_name(f"{call}-{nth}.log")
        rules = [self.at(call, "log", nth), self.at(call, action, nth)]
        if not exchange:
            rules.append(NO_EXCHANGE)
        result = self.convert(options, tuple(rules), FAULTY_IO_LOG=log)
        # Of several threads one may be the n-th to be killed before another, the n-th to log, has.
        if log.exists() or (action == "kill" and result.returncode == -signal.SIGKILL):
            log.unlink(missing_ok=True)
            return result
        assert result.returncode == 0, result.stderr
        assert self.holds(self.expected)
        return None
