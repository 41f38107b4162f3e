"""Exports, and conversions of a checkpoint, on disks that fail or stop short on either side."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from tests.helpers.fork_server import ForkServer, Result, fault
from tests.helpers.telling import folder_digests

EXPORT = """
import sys
import ckptfmt
from tests.helpers.telling import folder_digests, tell
def export():
    ckptfmt.export(sys.argv[1], sys.argv[2], shard_size="4MiB")
    return folder_digests(sys.argv[2])
tell(export)
"""
AGAIN = EXPORT.replace(
    'ckptfmt.export(sys.argv[1], sys.argv[2], shard_size="4MiB")',
    'ckptfmt.convert(sys.argv[1], sys.argv[2], partition_size="3MiB")',
)
#: Calls that change the disk, and at least how many of them an export makes.
CALLS = {"write": 8, "fsync": 7, "fsync_folder": 3, "create": 7, "unlink": 1, "rename": 2}


@pytest.fixture(scope="module")
def exported(
    server: ForkServer, converted: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Digests of the files of an export without faults."""
    return server.run(EXPORT, converted, tmp_path_factory.mktemp("export") / "out").value


class Exporting:
    """An export to a folder of its own, with a fault at the n-th call."""

    def __init__(self, server: ForkServer, source: Path, folder: Path) -> None:
        self.server = server
        self.source = source
        self.target = folder / "out"
        self.log = folder / "log"

    def run(self, call: str, action: str | int, nth: int) -> Result | None:
        """The outcome, or None if there was no n-th call."""
        self.log.unlink(missing_ok=True)
        rules = [fault(call, a, nth=nth, path=str(self.target.parent)) for a in ("log", action)]
        result = self.server.run(
            EXPORT, self.source, self.target, faults=tuple(rules), FAULTY_IO_LOG=self.log
        )
        return result if self.log.exists() else None


@pytest.mark.parametrize("call", CALLS)
def test_an_export_that_fails_leaves_no_target_and_can_be_repeated(
    call: str, server: ForkServer, converted: Path, exported: dict[str, str], tmp_path: Path
) -> None:
    for nth in range(1, 99):
        here = Exporting(server, converted, tmp_path / f"{nth}")
        here.target.parent.mkdir()
        result = here.run(call, errno.ENOSPC, nth)
        if result is None:
            break
        found = result.value
        assert (found["error"], found["errno"]) == ("FileError", errno.ENOSPC)
        assert found["filename"].startswith(str(here.target))
        if here.target.exists():
            assert call == "fsync_folder", "only the name could not be made durable"
            assert folder_digests(here.target) == exported
        else:
            assert here.server.run(EXPORT, converted, here.target).value == exported
    assert nth > CALLS[call]


def test_an_export_killed_at_any_step_can_be_repeated(
    server: ForkServer, converted: Path, exported: dict[str, str], tmp_path: Path
) -> None:
    refused = 0
    for nth in range(1, 199):
        here = Exporting(server, converted, tmp_path / f"{nth}")
        here.target.parent.mkdir()
        result = here.run("step", "kill", nth)
        if result is None:
            break
        assert result.returncode == -signal.SIGKILL
        if not here.target.exists():
            found = here.server.run(EXPORT, converted, here.target).value
            if found.get("error") == "TargetExistsError":
                # Finished, and killed just before it got its name: nothing tells any more that
                # the folder is ours, so it is left to the person.
                refused += 1
                partial = here.target.with_name("out.partial")
                assert found["filename"] == str(partial)
                assert folder_digests(partial) == exported
                continue
        assert folder_digests(here.target) == exported
    assert nth > 20
    assert refused <= 2


SHORT = {
    "short": [fault("pread", "short=70001", nth=1, onward=True, path="part-")],
    "shorter": [fault("pread", "short=100", nth=n, path="part-") for n in range(1, 30, 4)],
    "signals": [fault("pread", errno.EINTR, nth=n, path="part-") for n in range(1, 30, 4)],
}


@pytest.mark.parametrize("what", SHORT)
@pytest.mark.parametrize("code", [EXPORT, AGAIN], ids=["export", "convert"])
def test_short_reads_of_the_checkpoint_are_healed(
    code: str, what: str, server: ForkServer, converted: Path, tmp_path: Path
) -> None:
    whole = server.run(code, converted, tmp_path / "whole").value
    found = server.run(code, converted, tmp_path / "healed", faults=tuple(SHORT[what])).value
    assert "error" not in whole
    assert found == whole


@pytest.mark.parametrize("code", [EXPORT, AGAIN], ids=["export", "convert"])
def test_a_read_error_of_the_checkpoint_is_named(
    code: str, server: ForkServer, converted: Path, tmp_path: Path
) -> None:
    rule = fault("pread", errno.EIO, nth=5, onward=True, path="part-00001")
    found = server.run(code, converted, tmp_path / "out", faults=(rule,)).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    assert found["filename"] == str(converted / "part-00001.ckptfmt")
    assert not (tmp_path / "out").exists()


def test_short_reads_of_a_source_are_healed(
    server: ForkServer, small_source: Path, converted: Path, tmp_path: Path
) -> None:
    code = AGAIN.replace("3MiB", "4MiB")
    rules = (fault("pread", "short=70001", onward=True, path="model.safetensors"),)
    found = server.run(code, small_source, tmp_path / "out", faults=rules).value
    assert found == folder_digests(converted)
