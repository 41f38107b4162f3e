"""Newer system calls refused one by one, as old kernels (ENOSYS) and containers (EPERM) do."""

from __future__ import annotations

import errno
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.conversions import CONVERT, Place
from tests.helpers.fork_server import ForkServer
from tests.helpers.seccomp import CALLS

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="system call numbers of this machine"
)

REFUSE = """
import json, sys
from tests.helpers.seccomp import refuse, refused
calls = json.loads(sys.argv.pop())
refuse(calls)
assert {name: refused(name) for name in calls} == calls
"""
LOAD = REFUSE + """
import ckptfmt
from tests.helpers.telling import load_digests, tell
def load():
    found = {way: load_digests(sys.argv[1], **options)
             for way, options in json.loads(sys.argv[2]).items()}
    found["problems"] = [str(problem) for problem in ckptfmt.verify(sys.argv[1]).problems]
    return found
tell(load)
"""
WAYS = {
    "auto": {}, "direct": {"reads": "direct"}, "buffered": {"reads": "buffered"},
    "pread": {"io": "pread", "reads": "direct"},
}  # fmt: skip
RING = ("io_uring_setup", "io_uring_enter", "io_uring_register")
CODES = {"ENOSYS": errno.ENOSYS, "EPERM": errno.EPERM}
#: Each call by itself, and some together.
REFUSED = {
    f"{name} {text}": {name: code} for name in CALLS for text, code in CODES.items()
} | {
    "io_uring_setup ENOMEM": {"io_uring_setup": errno.ENOMEM},
    "cachestat, mincore": {"cachestat": errno.EPERM, "mincore": errno.EPERM},
    "cachestat, mincore, preadv2": dict.fromkeys(("cachestat", "mincore", "preadv2"), errno.EPERM),
    "all ENOSYS": dict.fromkeys(CALLS, errno.ENOSYS),
    "all EPERM": dict.fromkeys(CALLS, errno.EPERM),
}  # fmt: skip


@pytest.fixture(scope="module")
def ring_errno(plain_server: ForkServer) -> int:
    """Whether this machine has io_uring at all."""
    code = "from ckptfmt import _core; print(_core.io_uring_errno())"
    return int(plain_server.run(code).stdout)


@pytest.mark.parametrize("what", REFUSED)
def test_loading_and_verifying_still_give_the_right_values(
    what: str, plain_server: ForkServer, converted: Path, good: dict[str, str], ring_errno: int,
    arrays: dict[str, np.ndarray],
) -> None:  # fmt: skip
    calls = REFUSED[what]
    found = plain_server.run(LOAD, converted, json.dumps(WAYS), json.dumps(calls)).value
    assert "error" not in found, found
    assert found["problems"] == []
    for way in WAYS:
        assert found[way]["digests"] == good
        assert found[way]["stats"]["verified_nbytes"] == sum(a.nbytes for a in arrays.values())

    code = next((calls[name] for name in RING if name in calls), ring_errno)
    stats = found["direct"]["stats"]
    if any(file["direct_nbytes"] for file in stats["files"].values()):
        assert stats["engine"] == ("pread" if code else "io_uring")
        assert stats["engine_reason"] == (f"io_uring: {os.strerror(code)}" if code else "")
    assert found["pread"]["stats"]["engine_reason"] == "asked for"


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ([], "(cachestat)"),
        (["cachestat"], "(mincore)"),
        (["cachestat", "mincore"], "by sampling (the page cache may not be asked)"),
    ],
)
def test_the_statistics_say_who_was_asked_about_the_page_cache(
    refused: list[str], reason: str, plain_server: ForkServer, converted: Path
) -> None:
    calls = dict.fromkeys(refused, errno.EPERM)
    code = REFUSE + """
from ckptfmt import _core
import os
fd = os.open(sys.argv[1] + "/part-00000.ckptfmt", os.O_RDONLY)
print(json.dumps([_core.cached_nbytes(fd, 0, 1)]))
"""
    if not refused and plain_server.run(code, converted, "{}").returncode != 0:
        pytest.skip("this kernel has no cachestat")
    found = plain_server.run(
        LOAD, converted, json.dumps({"auto": {}}), json.dumps(calls)
    ).value["auto"]  # fmt: skip
    for name, file in found["stats"]["files"].items():
        assert file["reason"].endswith(reason), name


@pytest.mark.parametrize("name", RING)
def test_asking_for_io_uring_where_it_is_refused_is_an_error(
    name: str, plain_server: ForkServer, converted: Path
) -> None:
    ways = {"ring": {"io": "io_uring", "reads": "direct"}}
    found = plain_server.run(
        LOAD, converted, json.dumps(ways), json.dumps({name: errno.EPERM})
    ).value  # fmt: skip
    assert (found["error"], found["errno"]) == ("FileError", errno.EPERM)
    assert found["filename"] == "io_uring"
    assert "io=auto" in found["hint"]


def test_the_command_says_which_engine_ran_and_why(
    plain_server: ForkServer, converted: Path
) -> None:
    code = REFUSE + "from ckptfmt.cli import main; main()"
    calls = json.dumps({"io_uring_setup": errno.EPERM})
    result = plain_server.run(
        code, "load", converted, "--framework", "numpy", calls, CKPTFMT_READS="direct"
    )
    assert result.returncode == 0, result.stderr
    assert "engine pread (io_uring: Operation not permitted)" in result.stdout


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("force", [False, True])
def test_converting_gives_the_same_bytes(
    what: str, force: bool, place: Place, plain_server: ForkServer
) -> None:
    here = replace(place, server=plain_server)
    if force:
        place.target.mkdir()
        (place.target / "ckptfmt.json").write_text("an old one")
    options = json.dumps({"force": force})
    result = plain_server.run(
        REFUSE + CONVERT, place.source, place.target, options, json.dumps(REFUSED[what])
    )
    assert "error" not in result.value
    here.finish("")
    warned = "cannot be locked" in result.stderr
    assert warned == ("flock" in REFUSED[what])
