"""Reads that bring less than asked for, are interrupted, fail, or meet the file's end too early."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.fork_server import FAKE_RING, ForkServer, fault

LOAD = """
import json, sys
from tests.helpers.telling import tell_load
tell_load(sys.argv[1], **{"op_nbytes": 1 << 20, **json.loads(sys.argv[2])})
"""
OPEN = """
import json, os, sys
import ckptfmt
from tests.helpers.telling import digests, tell
path = sys.argv[1]
checkpoint = ckptfmt.open(path, options=ckptfmt.LoadOptions(**json.loads(sys.argv[2])))
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way of reading: options, what the child needs for it, and the call that matters."""

    options: dict[str, object]
    call: str
    setting: tuple[str, ...] = ()
    #: Reads of a partition by that call while it is opened: a probing one, header and table.
    before: int = 0

    @property
    def json(self) -> str:
        return json.dumps(self.options)


NO_DIRECT = fault("direct_open", errno.EINVAL, onward=True)
WAYS = {
    "io_uring": Way({"io": "io_uring", "reads": "direct"}, "uring", (FAKE_RING,)),
    "pread": Way({"io": "pread", "reads": "direct"}, "pread", (), 3),
    "buffered": Way({"io": "pread", "reads": "buffered"}, "pread", (NO_DIRECT,), 2),
    # One partition has no direct reads: the workers do both kinds at a time.
    "mixed": Way(
        {"io": "io_uring", "reads": "direct"}, "uring",
        (FAKE_RING, fault("direct_open", errno.EINVAL, onward=True, path="part-00002")),
    ),
}  # fmt: skip

#: Every time and at some times; on a sector's border and off it; less than a sector; signals.
HEALED: dict[str, tuple[str | int, list[int], bool]] = {
    "short by sectors, always": ("short=65536", [1], True),
    "short inside a sector, always": ("short=70001", [1], True),
    "less than a sector": ("short=100", [1, 4, 7], False),
    "one byte": ("short=1", [2, 3, 8], False),
    "EINTR": (errno.EINTR, [1, 2, 3, 6], False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", HEALED)
def test_short_and_interrupted_reads_are_healed(
    way: str, what: str, server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    action, times, onward = HEALED[what]
    rules = [fault(WAYS[way].call, action, nth=n, onward=onward, path="part-") for n in times]
    found = server.run(LOAD, converted, WAYS[way].json, faults=(*WAYS[way].setting, *rules)).value
    assert found["digests"] == good
    assert found["stats"]["engine"] == WAYS[way].options["io"]


@pytest.mark.parametrize("action", ["short=0", errno.EAGAIN])
def test_the_page_cache_has_the_last_word_on_a_ring_s_result(
    action: str | int, server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    rules = [fault("uring", action, nth=n) for n in (2, 3, 7)]
    found = server.run(LOAD, converted, WAYS["io_uring"].json, faults=(FAKE_RING, *rules)).value
    assert found["digests"] == good


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY])
@pytest.mark.parametrize("action", [errno.EINTR, "short=8192"])
def test_requests_that_a_ring_does_not_take_are_read_otherwise(
    code: int, action: str | int, server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    # One worker, four in flight: the fifth request is the one for the rest of the first completion.
    rules = (
        fault("uring", action, nth=1), fault("uring", action, nth=4),
        fault("submit", code, nth=2), fault("submit", code, nth=5), fault("submit", code, nth=7),
        fault("wait", code, nth=2), fault("wait", errno.EINTR, nth=3),
        fault("submit", errno.EINTR, nth=9),
    )  # fmt: skip
    options = {**WAYS["io_uring"].options, "threads": 1, "depth": 4}
    found = server.run(LOAD, converted, json.dumps(options), faults=(FAKE_RING, *rules)).value
    assert found["digests"] == good
    assert found["stats"]["engine"] == "io_uring"


def test_workers_that_get_no_ring_read_otherwise_and_the_statistics_say_so(
    server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    """The first set-up is the probe's, then there is one for each worker."""
    options = json.dumps({**WAYS["io_uring"].options, "threads": 3})
    all_of_them = fault("setup", errno.ENOMEM, nth=2, onward=True)
    one_of_them = fault("setup", errno.ENOMEM, nth=3)

    found = server.run(LOAD, converted, options, faults=(FAKE_RING, all_of_them)).value
    assert found["digests"] == good
    assert found["stats"]["engine"] == "pread"
    assert found["stats"]["engine_reason"] == "io_uring: Cannot allocate memory"

    found = server.run(LOAD, converted, options, faults=(FAKE_RING, one_of_them)).value
    assert found["digests"] == good
    assert found["stats"]["engine"] == "io_uring"
    reason = "io_uring: Cannot allocate memory, for 1 of 3 workers"
    assert found["stats"]["engine_reason"] == reason


def test_a_ring_that_cannot_be_waited_for_is_an_error_and_leaves_the_memory_alone(
    server: ForkServer, converted: Path
) -> None:
    code = """
import sys
import ckptfmt
from ckptfmt import engine
from tests.helpers.telling import tell
options = ckptfmt.LoadOptions(io="io_uring", reads="direct")
tell(lambda: ckptfmt.load(sys.argv[1], framework="numpy", options=options))
assert len(engine._LEAKED) == 1
"""
    rule = fault("wait", errno.EBADF, nth=2)
    result = server.run(code, converted, faults=(FAKE_RING, rule))
    found = result.value
    assert (found["error"], found["errno"]) == ("FileError", errno.EBADF)


def test_a_read_that_is_never_ready_fails(server: ForkServer, converted: Path) -> None:
    rules = (
        fault("uring", errno.EAGAIN, onward=True, path="part-00001"),
        fault("pread", errno.EAGAIN, nth=4, onward=True, path="part-00001"),
    )
    found = server.run(LOAD, converted, WAYS["io_uring"].json, faults=(FAKE_RING, *rules)).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EAGAIN)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_read_error_names_the_file_and_the_bytes(
    way: str, nth: int, server: ForkServer, converted: Path
) -> None:
    used = WAYS[way]
    rule = fault(used.call, errno.EIO, nth=used.before + nth, path="part-00001")
    found = server.run(LOAD, converted, used.json, faults=(*used.setting, rule)).value
    part = converted / "part-00001.ckptfmt"
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    assert found["filename"] == str(part)
    match = re.fullmatch(
        re.escape(str(part)) + r": bytes (\d+)\.\.(\d+) cannot be read: Input/output error",
        found["message"],
    )
    assert match, found["message"]
    low, high = map(int, match.groups())
    assert 4096 <= low < high <= part.stat().st_size
    assert "dmesg" in found["hint"]


@pytest.mark.parametrize("first", [1, 2])
def test_a_read_error_while_opening_names_the_file(
    first: int, server: ForkServer, converted: Path
) -> None:
    """Header (1) or table (2); the probing direct read is refused, so both are buffered."""
    rules = (NO_DIRECT, fault("pread", errno.EIO, nth=first, onward=True, path="part-00001"))
    found = server.run(LOAD, converted, WAYS["buffered"].json, faults=rules).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    assert found["filename"] == str(converted / "part-00001.ckptfmt")


def test_a_probing_read_that_fails_is_a_reason_not_an_error(
    server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    rule = fault("pread", errno.EIO, path="part-00001")
    found = server.run(LOAD, converted, WAYS["pread"].json, faults=(rule,)).value
    assert found["digests"] == good
    reasons = {name: file["reason"] for name, file in found["stats"]["files"].items()}
    assert reasons["part-00001.ckptfmt"] == "a direct read was refused: Input/output error"
    assert reasons["part-00000.ckptfmt"] == "asked for"


@pytest.mark.parametrize("action", ["short=100", "short=1", "short=4096", errno.EINTR])
@pytest.mark.parametrize("way", ["pread", "buffered"])
def test_short_reads_of_header_and_table_are_healed(
    action: str | int, way: str, server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    rules = [fault("pread", action, nth=n, path="part-00000") for n in range(1, 12, 2)]
    rules += [fault("pread", action, nth=n, path="part-00001") for n in range(2, 12, 2)]
    found = server.run(LOAD, converted, WAYS[way].json, faults=(*WAYS[way].setting, *rules)).value
    assert found["digests"] == good


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nbytes", [4096, 1_000_000, 3 << 20])
def test_a_partition_cut_short_after_opening_is_named(
    way: str, nbytes: int, server: ForkServer, copy: Path
) -> None:
    code = OPEN + f"""
os.truncate(path + "/part-00001.ckptfmt", {nbytes})
tell(lambda: {{"loaded": list(checkpoint.load(framework="numpy"))}})
tell(lambda: {{"digests": digests(checkpoint.load(["a.weight"], framework="numpy"))}})
"""
    result = server.run(code, copy, WAYS[way].json, faults=WAYS[way].setting)
    first, second = map(json.loads, result.stdout.splitlines())
    part = copy / "part-00001.ckptfmt"
    assert first["error"] == "FormatError"
    assert first["message"].startswith(f"{part}: the file ended while bytes ")
    assert set(second) == {"digests"}, "what lies in other partitions still loads"


#: Expressions that read everything of `checkpoint`.
READERS = {
    "load": "checkpoint.load(framework='numpy')",
    "stream": "dict(checkpoint.stream(framework='numpy', max_nbytes=2 << 20))",
    "load_into": "checkpoint.load_into(into)",
    "mmap, verified": "checkpoint.load(mmap=True, verify=True, framework='numpy')",
    "read": "{name: checkpoint.read(name) for name in checkpoint}",
    "cast": "checkpoint.load(['b.*', 'c.*', 'd.*'], dtype='fp16')",
}


@pytest.mark.parametrize("reader", READERS)
def test_every_way_of_loading_reports_a_read_error(
    reader: str, server: ForkServer, converted: Path
) -> None:
    code = OPEN + f"""
import numpy as np
names = {{"U8": np.uint8, "F32": np.float32, "I64": np.int64, "F16": np.float16}}
entries = {{name: checkpoint.info(name) for name in checkpoint}}
into = {{name: np.zeros(entry.shape, names[entry.dtype]) for name, entry in entries.items()}}
tell(lambda: {READERS[reader]})
"""
    rule = fault("pread", errno.EIO, nth=4, onward=True, path="part-00001")
    found = server.run(code, converted, WAYS["pread"].json, faults=(rule,)).value
    assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    assert found["filename"] == str(converted / "part-00001.ckptfmt")


@pytest.mark.parametrize("command", ["load", "verify"])
def test_a_command_says_it_in_one_line(command: str, server: ForkServer, converted: Path) -> None:
    options = ["--framework", "numpy"] if command == "load" else []
    rule = fault("pread", errno.EIO, nth=4, onward=True, path="part-00001")
    result = server.cli(command, converted, *options, faults=(rule,), CKPTFMT_IO="pread")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"ckptfmt: {converted}")
    assert "part-00001.ckptfmt" in result.stderr
    assert "Input/output error" in result.stderr
    assert "Traceback" not in result.stderr


LIMITED = """
import json, os, resource, sys
import ckptfmt
from tests.helpers.telling import tell_load
tell_load(sys.argv[1])
which, more = json.loads(sys.argv[2])
used = {"fds": len(os.listdir("/proc/self/fd")) - 1,
        "memory": int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")}
limit = resource.RLIMIT_NOFILE if which == "fds" else resource.RLIMIT_AS
resource.setrlimit(limit, (used[which] + more,) * 2)
tell_load(sys.argv[1])
if which == "fds":
    assert len(os.listdir("/dev/fd")) - 1 == used["fds"], "closed again"
"""


@pytest.mark.parametrize("more", [2, 4, 6, 8])
def test_too_many_open_files_is_an_error_that_says_what_to_do(
    more: int, plain_server: ForkServer, converted: Path
) -> None:
    result = plain_server.run(LIMITED, converted, json.dumps(["fds", more]))
    found = result.value
    assert (found["error"], found["errno"]) == ("FileError", errno.EMFILE)
    assert found["filename"].startswith(str(converted))
    assert found["hint"] == "raise the limit: ulimit -n"


def test_no_memory_for_the_tensors_is_an_error_that_says_what_to_do(
    plain_server: ForkServer, converted: Path
) -> None:
    found = plain_server.run(LIMITED, converted, json.dumps(["memory", 8 << 20])).value
    assert found["error"] == "OutOfMemoryError"
    assert "mmap=True" in found["hint"]
