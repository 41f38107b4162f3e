"""Loads beside others: of a folder that is replaced, in threads and forks, as another user."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import ckptfmt
from tests.helpers.conversions import OPTIONS, Place
from tests.helpers.fork_server import FAKE_RING, ForkServer, fault, wait_until
from tests.helpers.telling import digests


def test_an_open_checkpoint_keeps_serving_its_bytes_when_it_is_replaced(
    place: Place, other_checkpoint: dict[str, str]
) -> None:
    with ckptfmt.open(place.target) as before:
        ckptfmt.convert(place.source, place.target, force=True, **OPTIONS)
        after = ckptfmt.load(place.target, framework="numpy")
        assert list(before) == ["x"]
        for options in ({"reads": "direct"}, {"reads": "buffered"}):
            loaded = before.load(framework="numpy", options=ckptfmt.LoadOptions(**options))
            assert digests(loaded) == digests({"x": np.arange(9, dtype=np.float32)})
    assert "x" not in after


@pytest.mark.parametrize("way", ["io_uring", "pread"])
def test_a_load_goes_on_with_the_old_bytes_while_the_folder_is_replaced(
    way: str, server: ForkServer, copy: Path, small_source: Path, good: dict[str, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    code = "import sys\nfrom tests.helpers.telling import tell_load\n"
    code += f"tell_load(sys.argv[1], io={way!r}, reads='direct')"
    gate, log = tmp_path / "gate", tmp_path / "log"
    call, nth = ("uring", 2) if way == "io_uring" else ("pread", 16)
    rules = (FAKE_RING, fault(call, "log", nth=nth), fault(call, "hold", nth=nth, onward=True))
    job = server.start(code, copy, faults=rules, FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log)
    wait_until(log.exists)
    ckptfmt.convert(small_source, copy, force=True, include=["d.*"])
    gate.touch()
    assert job.wait().value["digests"] == good
    assert list(ckptfmt.open(copy)) == ["d.bias"]


def test_eight_threads_load_from_one_checkpoint(converted: Path, server: ForkServer) -> None:
    code = """
import sys, threading
import ckptfmt
from tests.helpers.telling import digests, tell
ways = [{}, {"reads": "direct"}, {"reads": "direct", "io": "pread"}, {"reads": "buffered"}]
with ckptfmt.open(sys.argv[1]) as checkpoint:
    found = [None] * 8
    def load(i):
        options = ckptfmt.LoadOptions(**ways[i % 4])
        for _ in range(3):
            found[i] = digests(checkpoint.load(framework="numpy", options=options))
            assert ckptfmt.load_stats().verified_nbytes > 13_000_000
    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
first = found[0]
tell(lambda: {"same": all(f == first for f in found), "digests": first})
"""
    found = server.run(code, converted).value
    assert found["same"]
    assert found["digests"] == digests(ckptfmt.load(converted, framework="numpy"))


def test_closing_while_another_thread_loads_waits_for_it(
    converted: Path, server: ForkServer, good: dict[str, str], tmp_path: Path
) -> None:
    code = """
import os, sys, threading
import ckptfmt
from tests.helpers.telling import digests, tell
checkpoint = ckptfmt.open(sys.argv[1], options=ckptfmt.LoadOptions(io="pread", reads="buffered"))
found = {}
thread = threading.Thread(target=lambda: found.update(checkpoint.load(framework="numpy")))
thread.start()
while not os.path.exists(os.environ["FAULTY_IO_LOG"]): pass
fds = len(os.listdir("/proc/self/fd"))
checkpoint.close()
assert len(os.listdir("/proc/self/fd")) == fds, "they are in use"
tell(lambda: checkpoint.load(framework="numpy"))
open(os.environ["FAULTY_IO_GATE"], "w").close()
thread.join()
assert len(os.listdir("/proc/self/fd")) < fds - 5, "now they are closed"
checkpoint.close()
tell(lambda: {"digests": digests(found)})
"""
    rules = [
        fault("pread", action, nth=4, onward=action == "hold", path="part-00001")
        for action in ("log", "hold")
    ]
    result = server.run(
        code, converted, faults=tuple(rules),
        FAULTY_IO_GATE=tmp_path / "gate", FAULTY_IO_LOG=tmp_path / "log",
    )  # fmt: skip
    refused, loaded = map(json.loads, result.stdout.splitlines())
    assert refused["error"] == "ClosedError"
    assert loaded["digests"] == good


def test_a_forked_child_loads_from_its_parents_checkpoint(
    converted: Path, server: ForkServer, good: dict[str, str]
) -> None:
    code = """
import os, sys
import ckptfmt
from tests.helpers.telling import load_digests, digests, tell
path, ways = sys.argv[1], [{}, {"reads": "direct"}, {"reads": "buffered"}]
checkpoint = ckptfmt.open(path)
kept = checkpoint.load(framework="numpy")
before = digests(kept)
for way in ways:
    pid = os.fork()
    if pid == 0:
        options = ckptfmt.LoadOptions(**way)
        assert digests(checkpoint.load(framework="numpy", options=options)) == before
        assert load_digests(path, **way)["digests"] == before
        for array in kept.values():
            array.fill(0)
        checkpoint.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert digests(checkpoint.load(framework="numpy")) == before == digests(kept)
tell(lambda: {"digests": before})
"""
    assert server.run(code, converted).value["digests"] == good


@pytest.fixture
def public_checkpoint(converted: Path) -> Iterator[Path]:
    """A copy that anybody can read; pytest's own folders are private."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(shutil.copytree(converted, Path(folder) / "model.ckpt"))


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("calls", [{}, {"cachestat": errno.ENOSYS}])
def test_converted_as_root_and_loaded_as_another_user(
    calls: dict[str, int], public_checkpoint: Path, plain_server: ForkServer, good: dict[str, str]
) -> None:
    """Whose page cache this is not is not told: a sample decides, and says so."""
    code = """
import json, os, sys
from ckptfmt import _core
from tests.helpers.seccomp import refuse
from tests.helpers.telling import load_digests, tell
refuse(json.loads(sys.argv[2]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
fd = os.open(sys.argv[1] + "/part-00000.ckptfmt", os.O_RDONLY)
try:
    _core.cached_nbytes(fd, 0, 1)
    may_ask = True
except OSError:
    may_ask = False
tell(lambda: {"may_ask": may_ask, **load_digests(sys.argv[1])})
"""
    found = plain_server.run(code, public_checkpoint, json.dumps(calls)).value
    assert found["digests"] == good
    assert not (calls and found["may_ask"])
    sampled = "by sampling (the page cache may not be asked)"
    for file in found["stats"]["files"].values():
        assert file["reason"].endswith("(cachestat)" if found["may_ask"] else sampled)
