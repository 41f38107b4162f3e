"""File systems that can less than ext4: a FAT card's, one with short or failing reads, tmpfs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.helpers import fuse
from tests.helpers.conversions import CONVERT, Place
from tests.helpers.fork_server import ForkServer, fault
from tests.helpers.fuse import Limits
from tests.helpers.telling import folder_digests

needs_fuse = pytest.mark.skipif(bool(fuse.missing()), reason=fuse.missing() or "there is fuse")

LOAD = """
import json, sys
from tests.helpers.telling import load_digests, tell
for options in json.loads(sys.argv[2]):
    tell(lambda: load_digests(sys.argv[1], **options))
"""
WAYS = [
    {"io": "io_uring", "reads": "direct"},
    {"io": "io_uring", "reads": "direct", "op_nbytes": 1 << 20, "threads": 4},
    {"io": "pread", "reads": "direct"}, {"io": "pread", "reads": "buffered"}, {},
]  # fmt: skip
LARGE, SMALL = 3 << 20, 2 << 20  # a limit of files, and partitions below it

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system with the given limits; what is copied there first, if anything."""
    with ExitStack() as stack:

        def mount_one(limits: Limits, holding: Path | None = None) -> Path:
            folder = tmp_path / f"fuse-{len(list(tmp_path.iterdir()))}"
            path = stack.enter_context(fuse.mounted(folder, limits))
            if holding is not None:
                shutil.copytree(holding, folder / "backing" / holding.name)
            return path

        yield mount_one


def load_all_ways(
    server: ForkServer, path: Path, *faults: str, ways: Iterable[dict[str, object]] = WAYS
) -> list[dict[str, object]]:
    """What each of `ways` gives; io_uring is left out where there is none."""
    probe = server.run("from ckptfmt import _core; print(_core.io_uring_errno())").stdout
    ways = [way for way in ways if int(probe) == 0 or way.get("io") != "io_uring"]
    result = server.run(LOAD, path, json.dumps(ways), faults=faults)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@needs_fuse
def test_a_fat_card_is_converted_to_resumed_replaced_and_loaded_from(
    mount: Mount, place: Place, plain_server: ForkServer, good: dict[str, str]
) -> None:
    """No fallocate, no exchange of folders, files of a limited size."""
    card = replace(place, target=mount(Limits(file_nbytes=LARGE)) / "model.ckpt")
    found = card.convert('{"workers": 1}', (card.at("pwrite", errno.EIO, 2, "part-00001"),)).value
    assert found["errno"] == errno.EIO
    assert card.finish() == [0]
    first = card.target.stat().st_ino

    plain = replace(card, server=plain_server)
    plain.finish('{"force": true}')
    assert card.target.stat().st_ino != first, "replaced, not changed in place"

    small = {name: digest for name, digest in good.items() if not name.startswith("c.")}
    for found in load_all_ways(plain_server, card.target):
        assert found["digests"] == small


@needs_fuse
def test_files_too_large_for_the_file_system_are_an_error_that_says_what_to_do(
    mount: Mount, place: Place, plain_server: ForkServer
) -> None:
    target = mount(Limits(file_nbytes=SMALL)) / "model.ckpt"
    result = plain_server.cli("convert", place.source, target)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert "--partition-size" in result.stderr
    assert list(target.parent.iterdir()) == []
    result = plain_server.cli("convert", place.source, target, "--partition-size", "2MiB")
    assert result.returncode == 0, result.stderr
    assert plain_server.cli("verify", target, "--against", place.source).returncode == 0


@needs_fuse
@pytest.mark.parametrize("short_nbytes", [16384, 70_001, 5000])
def test_short_reads_of_a_file_system_are_healed(
    short_nbytes: int, mount: Mount, converted: Path, plain_server: ForkServer,
    good: dict[str, str],
) -> None:  # fmt: skip
    """By pread only: on FUSE the kernel's io_uring (Linux 6.18) goes on after a short reply by
    itself, and reads the same bytes again and again. Its short results are fake_ring.c's matter.
    """
    path = mount(Limits(short_nbytes=short_nbytes), converted) / converted.name
    ways = [{"io": "pread", "reads": reads} for reads in ("direct", "buffered")]
    for found in load_all_ways(plain_server, path, ways=ways):
        assert found["digests"] == good


@needs_fuse
@pytest.mark.parametrize("offset", [4096, 2_500_000])
def test_a_read_error_names_file_and_bytes_with_either_engine(
    offset: int, mount: Mount, converted: Path, plain_server: ForkServer
) -> None:
    limits = Limits(failing="part-00001", failing_offset=offset)
    path = mount(limits, converted) / converted.name
    for found in load_all_ways(plain_server, path):
        assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
        assert found["filename"] == str(path / "part-00001.ckptfmt")
        low, high = found["message"].split("bytes ")[1].split(" ")[0].split("..")
        assert int(low) <= offset < int(high)


@needs_fuse
def test_a_file_system_without_direct_reads_is_read_through_the_cache(
    mount: Mount, converted: Path, plain_server: ForkServer, good: dict[str, str]
) -> None:
    path = mount(Limits(direct=False), converted) / converted.name
    for found, way in zip(load_all_ways(plain_server, path), WAYS, strict=False):
        assert found["digests"] == good
        check_buffered(found["stats"], way, "O_DIRECT refused: Invalid argument")


def check_buffered(stats: dict[str, object], way: dict[str, object], reason: str) -> None:
    """All was read through the cache, and the statistics say why."""
    assert stats["engine"] == "pread"
    wanted = "asked for" if way.get("reads") == "buffered" else reason
    for file in stats["files"].values():
        assert file["direct_nbytes"] == 0
        assert file["reason"] == wanted


def test_refused_direct_reads_are_a_reason_in_the_statistics(
    server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    """Opening is refused, or opening is not and reading is."""
    opening = fault("direct_open", errno.EINVAL, onward=True)
    for found, way in zip(load_all_ways(server, converted, opening), WAYS, strict=False):
        assert found["digests"] == good
        check_buffered(found["stats"], way, "O_DIRECT refused: Invalid argument")
    for code in (errno.EINVAL, errno.EOPNOTSUPP):
        code_faults = [
            fault("pread", code, nth=1, path=f"part-0000{n}") for n in range(5)
        ]  # fmt: skip
        result = server.run(LOAD, converted, json.dumps([{}]), faults=tuple(code_faults))
        assert result.value["digests"] == good
        reason = f"a direct read was refused: {os.strerror(code)}"
        check_buffered(result.value["stats"], {}, reason)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm to write to")
def test_tmpfs(plain_server: ForkServer, place: Place, good: dict[str, str]) -> None:
    small = {name: digest for name, digest in good.items() if not name.startswith("c.")}
    with TemporaryDirectory(dir="/dev/shm") as folder:
        here = replace(place, server=plain_server, target=Path(folder) / "model.ckpt")
        assert "error" not in plain_server.run(CONVERT, here.source, here.target, "{}").value
        here.finish('{"force": true}')
        for found in load_all_ways(plain_server, here.target):
            assert found["digests"] == small
        assert folder_digests(here.target) == place.expected
