"""Conversions on a disk that fills up, fails, or writes less than it was given."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.conversions import CLI_OPTIONS, NO_EXCHANGE, Place
from tests.helpers.fork_server import fault
from tests.helpers.telling import folder_digests

FORCE = '{"force": true}'
#: Calls that change the disk, and at least how many of them a conversion makes.
CALLS = {
    "pwrite": 9, "write": 8, "fsync": 12, "fsync_folder": 4, "fallocate": 3, "create": 11,
    "mkdir": 2, "unlink": 1, "rename": 4, "exchange": 0,
}  # fmt: skip


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_each_call_that_fails_is_a_typed_error_and_can_be_resumed(
    call: str, code: int, place: Place
) -> None:
    """The n-th call fails, for n from 1 until there is no n-th call."""
    for nth in range(1, 99):
        result = place.convert_failing(call, code, nth)
        if result is None:
            break
        found = result.value
        if "error" not in found:
            # A folder that is there already need not be made.
            assert call == "mkdir"
            assert place.holds(place.expected)
        else:
            assert found["error"] == "FileError", found
            assert found["errno"] == code
            assert found["filename"].startswith(str(place.target))
            if place.target.exists():
                # Only the folder above could not be made durable.
                assert call == "fsync_folder"
                assert place.holds(place.expected)
            else:
                place.finish()
        shutil.rmtree(place.target)
    assert nth > CALLS[call]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_that_fails_leaves_an_existing_target_alone(
    call: str, exchange: bool, place: Place, other_checkpoint: dict[str, str]
) -> None:
    for nth in range(1, 99):
        result = place.convert_failing(call, errno.ENOSPC, nth, FORCE, exchange=exchange)
        if result is None:
            break
        found = result.value
        if "error" not in found:
            assert call == "mkdir"
        elif place.holds(other_checkpoint):
            assert found["error"] == "FileError", found
            place.finish('{"force": true, "resume": true}')
        else:
            # The new one is there; only clearing the old one away failed.
            assert call in ("fsync_folder", "unlink"), found
            assert place.holds(place.expected)
            place.finish(FORCE)
        shutil.rmtree(place.target)
        shutil.copytree(place.target.with_name("other"), place.target)
    assert nth > CALLS[call]


@pytest.mark.parametrize("workers", [1, 4])
def test_finished_partitions_are_kept_and_not_written_again(
    workers: int, place: Place, tmp_path: Path
) -> None:
    options = json.dumps({"workers": 1})
    # The table of the last partition: those before it are finished.
    found = place.convert(options, (place.at("pwrite", errno.ENOSPC, 2, "part-00002"),)).value
    assert found["errno"] == errno.ENOSPC
    assert found["filename"] == str(place.partial / "part-00002.ckptfmt")
    assert "--resume" in found["hint"]
    before = {n: (place.partial / f"part-0000{n}.ckptfmt").stat().st_ino for n in (0, 1)}

    log = tmp_path / "log"
    again = place.convert(
        json.dumps({"resume": True, "workers": workers}),
        (fault("pwrite", "log", onward=True, path="part-"),), FAULTY_IO_LOG=log,
    ).value  # fmt: skip
    assert again["resumed"] == [0, 1]
    writes = [line.split() for line in log.read_text().splitlines()]
    for number in (0, 1):
        mine = [w[1:3] for w in writes if w[3].endswith(f"part-0000{number}.ckptfmt")]
        assert mine == [["0", "4096"]], "nothing but the header, which is written last"
        assert (place.target / f"part-0000{number}.ckptfmt").stat().st_ino == before[number]
    assert any(w[1] != "0" and w[3].endswith("part-00002.ckptfmt") for w in writes)
    place.finish("")


def test_nothing_is_left_when_nothing_was_finished(place: Place) -> None:
    found = place.convert('{"workers": 1}', (place.at("pwrite", errno.EIO, 1),)).value
    assert found["errno"] == errno.EIO
    assert not place.partial.exists()
    assert not place.target.exists()


SHORT = {
    "partitions by sectors": [fault("pwrite", "short=65536", onward=True, path="part-")],
    "partitions off sectors": [fault("pwrite", "short=70001", onward=True, path="part-")],
    "small files": [fault("write", "short=7", onward=True, path="model.ckpt")],
    "signals": [
        fault(call, errno.EINTR, nth=n, path="model.ckpt")
        for call in ("pwrite", "write", "fsync", "fallocate", "create")
        for n in (1, 2, 4)
    ],
}


@pytest.mark.parametrize("what", SHORT)
def test_short_and_interrupted_writes_are_healed(what: str, place: Place) -> None:
    assert "error" not in place.convert(faults=tuple(SHORT[what])).value
    place.finish("")


def test_a_write_of_nothing_is_an_error_and_never_the_end(place: Place) -> None:
    # All from one on: what a direct write has not written is tried again through the page cache.
    rule = fault("pwrite", "short=0", nth=2, onward=True, path=str(place.target.parent))
    found = place.convert(faults=(rule,)).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    place.finish()


@pytest.mark.parametrize(
    "code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM], ids=errno.errorcode.get
)
def test_without_fallocate_files_are_only_sized(code: int, place: Place) -> None:
    rules = (fault("fallocate", code, onward=True, path="part-"),)
    assert "error" not in place.convert(faults=rules).value
    place.finish("")


def test_a_file_system_that_cannot_sync_folders_will_do(place: Place) -> None:
    rule = fault("fsync_folder", errno.EINVAL, onward=True)
    assert "error" not in place.convert(faults=(rule,)).value
    place.finish("")


def test_without_locks_the_person_is_warned(place: Place) -> None:
    rule = (fault("flock", errno.ENOLCK, onward=True),)
    result = place.convert(faults=rule)
    assert "cannot be locked (No locks available)" in result.stderr
    place.finish("")


@pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "fallocate", "rename"])
def test_the_command_says_it_in_one_line(call: str, place: Place) -> None:
    rule = place.at(call, errno.ENOSPC, CALLS[call])
    result = place.server.cli("convert", place.source, place.target, *CLI_OPTIONS, faults=(rule,))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"ckptfmt: {place.target}")
    assert "No space left on device" in result.stderr
    assert not place.target.exists()
    result = place.server.cli("convert", place.source, place.target, *CLI_OPTIONS, "--resume")
    assert result.returncode == 0, result.stderr
    place.finish("")


def test_a_failing_source_is_named(place: Place) -> None:
    rule = fault("pread", errno.EIO, nth=2, path="model.safetensors")
    found = place.convert(faults=(rule,)).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    assert found["filename"] == str(place.source / "model.safetensors")
    assert not place.target.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "ckptfmt-test", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    small_disk: Path, place: Place, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    result = place.server.cli(
        "convert", place.source, small_disk / "model.ckpt", *CLI_OPTIONS,
        faults=(fault("create", "log", onward=True, path="part-"),), FAULTY_IO_LOG=log,
    )  # fmt: skip
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert re.search(r"needs 3\.6\d MB, 3\.1\d MB are free", result.stderr)
    assert not log.exists(), "no partition was made"
    assert list(small_disk.iterdir()) == []


def test_a_target_behind_a_link_is_replaced_where_it_is(
    place: Place, other_checkpoint: dict[str, str]
) -> None:
    link = place.target.with_name("link.ckpt")
    link.symlink_to(place.target)
    result = place.server.cli("convert", place.source, link, *CLI_OPTIONS, "--force")
    assert result.returncode == 0, result.stderr
    assert link.is_symlink()
    place.finish("")
    assert not link.with_name("link.ckpt.partial").exists()


def test_a_copy_named_old_is_not_ours(place: Place, other_checkpoint: dict[str, str]) -> None:
    """People move a checkpoint to ``.old`` before they convert anew."""
    kept = place.target.rename(place.target.with_name("model.ckpt.old"))
    assert "error" not in place.convert(faults=()).value
    assert "error" not in place.convert(FORCE, faults=(NO_EXCHANGE,)).value
    place.finish("")
    assert folder_digests(kept) == other_checkpoint
