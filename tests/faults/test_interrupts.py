"""Ctrl-C: it ends a load with the reads that are in flight, and nothing reads on after it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from ckptfmt import _core
from tests.helpers import fuse
from tests.helpers.conversions import CLI_OPTIONS, Place
from tests.helpers.fork_server import FAKE_RING, ForkServer, fault, wait_until

INTERRUPTED = """
import json, os, sys, threading, time
import ckptfmt
from tests.helpers.telling import load_digests
path, options = sys.argv[1], json.loads(sys.argv[2])
log = os.environ.get("FAULTY_IO_LOG", "")
def reads():
    return len(open(log).read().splitlines()) if os.path.exists(log) else 0
fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
options = ckptfmt.LoadOptions(threads=2, depth=2, op_nbytes=2 << 20, **options)
if "dtype" in LOAD:
    import torch
print("ready", flush=True)
try:
    exec(LOAD)
except KeyboardInterrupt:
    interrupted = True
else:
    interrupted = False
at_return = reads()
state = {
    "interrupted": interrupted, "reads": at_return,
    "fds": len(os.listdir("/proc/self/fd")) - fds,
    "threads": threading.active_count() - threads,
}
time.sleep(0.3)
state["later"] = reads() - at_return
print(json.dumps(state | {"digests": load_digests(path)["digests"]}), flush=True)
"""
#: Ways to load; each is interrupted while its first reads are held.
LOADS = {
    "load": 'ckptfmt.load(path, framework="numpy", options=options)',
    "progress": 'ckptfmt.load(path, framework="numpy", options=options, progress=print)',
    "stream": 'list(ckptfmt.open(path, options=options).stream(framework="numpy"))',
    "mmap": 'ckptfmt.load(path, mmap=True, verify=True, framework="numpy", options=options)',
    "cast": 'ckptfmt.load(path, names=["b.*", "c.*"], dtype="fp16", options=options)',
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("way", ["io_uring", "pread", "buffered"])
def test_ctrl_c_ends_a_load_with_the_reads_that_are_in_flight(
    way: str, load: str, server: ForkServer, converted: Path, good: dict[str, str], tmp_path: Path
) -> None:
    """Two workers wait in a read each. After Ctrl-C they get their bytes, and read no further."""
    gate, log = tmp_path / "gate", tmp_path / "log"
    # The reads of opening are let through; the sector that probes, header and table of each.
    call, before = {
        "io_uring": ("uring", 0), "pread": ("pread", 15), "buffered": ("pread", 15)
    }[way]  # fmt: skip
    rules = (
        FAKE_RING,
        fault(call, "log", nth=before + 1, onward=True, path="part-"),
        fault(call, "hold", nth=before + 1, onward=True, path="part-"),
    )
    options = {"io": "io_uring" if way == "io_uring" else "pread",
               "reads": "buffered" if way == "buffered" else "direct"}  # fmt: skip
    job = server.start(
        f"LOAD = {LOADS[load]!r}\n{INTERRUPTED}", converted, json.dumps(options),
        faults=rules, FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log,
    )  # fmt: skip
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2, 20)
    job.interrupt()
    time.sleep(0.5)  # the workers are told within a tick of a tenth of a second
    gate.touch()
    found = job.wait().value
    assert found["interrupted"]
    # A worker's ring may hold a second read that has been handed over already.
    assert found["reads"] <= (4 if way == "io_uring" else 2)
    assert found["later"] == 0
    assert found["threads"] == 0
    assert found["fds"] == 0
    assert found["digests"] == good


@pytest.mark.parametrize("load", ["load", "stream", "cast"])
def test_ctrl_c_twice_still_waits_for_the_reads(
    load: str, server: ForkServer, converted: Path, good: dict[str, str], tmp_path: Path
) -> None:
    """What is in flight writes to memory: impatience must not free it."""
    gate, log = tmp_path / "gate", tmp_path / "log"
    rules = (fault("pread", "log", nth=16, onward=True, path="part-"),
             fault("pread", "hold", nth=16, onward=True, path="part-"))  # fmt: skip
    job = server.start(
        f"LOAD = {LOADS[load]!r}\n{INTERRUPTED}", converted, '{"io": "pread", "reads": "direct"}',
        faults=rules, FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log,
    )  # fmt: skip
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
    for _ in range(4):
        job.interrupt()
        time.sleep(0.1)
    assert '"interrupted"' not in (job.folder / "stdout").read_text(), "the reads are still held"
    gate.touch()
    found = job.wait().value
    assert (found["interrupted"], found["reads"], found["threads"]) == (True, 2, 0)
    assert found["digests"] == good


def test_ctrl_c_ends_a_conversion_that_can_be_resumed(place: Place, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    rules = (fault("pwrite", "log", nth=3, path="part-"),
             fault("pwrite", "hold", nth=3, onward=True, path="part-"))  # fmt: skip
    code = "from ckptfmt.cli import main; main()"
    job = place.server.start(
        code, "convert", place.source, place.target, "--workers", "1", *CLI_OPTIONS, faults=rules,
        FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log,
    )  # fmt: skip
    wait_until(log.exists)
    job.interrupt()
    time.sleep(0.3)
    gate.touch()
    result = job.wait()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not place.target.exists()
    assert place.finish() == [0, 1], "the write that was held still finished its partition"


@pytest.mark.skipif(bool(fuse.missing()), reason=fuse.missing() or "there is fuse")
@pytest.mark.skipif(_core.io_uring_errno() != 0, reason="io_uring may not be used here")
def test_ctrl_c_with_the_kernels_ring(
    tmp_path: Path, converted: Path, plain_server: ForkServer, good: dict[str, str]
) -> None:
    """The same with true requests in flight, on a file system that keeps them waiting."""
    gate = tmp_path / "gate"
    with fuse.mounted(tmp_path / "fuse", fuse.Limits(gate=str(gate))) as mount:
        shutil.copytree(converted, tmp_path / "fuse" / "backing" / converted.name)
        ready = 'print("ready", flush=True)'
        closing = 'checkpoint = ckptfmt.open(path, options=options)\n'
        closing += 'open(sys.argv[3] + ".closed", "w").close()\n'
        code = """LOAD = 'checkpoint.load(framework="numpy")'\n"""
        code += INTERRUPTED.replace(ready, closing + ready)
        options = '{"io": "io_uring", "reads": "direct"}'
        job = plain_server.start(code, mount / converted.name, options, gate)
        job.wait_for("ready")
        time.sleep(0.3)
        job.interrupt()
        time.sleep(0.3)
        assert '"interrupted"' not in (job.folder / "stdout").read_text()
        gate.touch()
        found = job.wait().value
    assert found["interrupted"]
    assert found["threads"] == 0
    assert found["digests"] == good


def test_signals_that_a_handler_takes_disturb_nothing(
    plain_server: ForkServer, place: Place
) -> None:
    """Thousands of them, as a profiler or a resized terminal sends them: calls are made again."""
    code = """
import json, signal, sys
import ckptfmt
from tests.helpers.conversions import OPTIONS
from tests.helpers.telling import digests, folder_digests, tell
source, target = sys.argv[1:]
seen = []
for which, timer in ((signal.SIGALRM, signal.ITIMER_REAL), (signal.SIGPROF, signal.ITIMER_PROF)):
    signal.signal(which, lambda number, frame: seen.append(number))
    signal.setitimer(timer, 0.0005, 0.0005)
def run():
    found = set()
    while len(seen) < 200:
        ckptfmt.convert(source, target, force=True, **OPTIONS)
        for io in ("io_uring", "pread", "auto"):
            for reads in ("direct", "buffered"):
                options = ckptfmt.LoadOptions(io=io if RING else "pread", reads=reads)
                loaded = ckptfmt.load(target, framework="numpy", options=options)
                found.add(json.dumps(digests(loaded), sort_keys=True))
    assert ckptfmt.verify(target).ok
    return {"signals": len(seen), "different": len(found), "files": folder_digests(target)}
tell(run)
"""
    code = f"RING = {_core.io_uring_errno() == 0}\n{code}"
    found = plain_server.run(code, place.source, place.target).value
    assert found["signals"] >= 200
    assert found["different"] == 1
    assert found["files"] == place.expected
