"""Traces: what was recorded comes back, in lanes that a viewer can draw."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ckptfmt.errors import FileError
from ckptfmt.read_plan import OP_DTYPE
from ckptfmt.trace import KINDS, TRACE_DTYPE, Trace, render, write

READ, BUFFERED, CHECKSUM, COPY, DISK, DEVICE = range(6)
FILES = ["part-00000.ckptfmt", "größe \"1\".ckptfmt"]
Row = tuple[int, int, int, int, int, int]


def ops(count: int) -> npt.NDArray[np.void]:
    """Ops of two files."""
    made = np.zeros(count, OP_DTYPE)
    made["offset"] = np.arange(count) * 4096
    made["file"] = np.arange(count) % 2
    return made


def trace(*rows: Row, device: str = "npu:0", n_ops: int = 8) -> Trace:
    """A trace of (begin, end, op, nbytes, kind, worker) in µs."""
    events = np.array(list(rows), TRACE_DTYPE)
    for field in ("begin", "end"):
        events[field] = events[field] * 1000 + 5_000_000_777
    return Trace(device, events, FILES, ops(n_ops))


def parsed(*traces: Trace, **metadata: object) -> dict[str, Any]:
    found = json.loads(render(traces, metadata))
    assert set(found) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert found["displayTimeUnit"] in ("ms", "ns")
    for event in found["traceEvents"]:
        examine(event)
    return found


def examine(event: dict[str, Any]) -> None:
    """One event by the rules of the format."""
    assert event["ph"] in ("X", "M")
    for field in ("pid", "tid"):
        assert type(event[field]) is int
        assert event[field] > 0
    assert isinstance(event["args"], dict)
    if event["ph"] == "M":
        what, _, rest = event["name"].partition("_")
        assert what in ("process", "thread")
        assert rest in ("name", "sort_index")
        value = event["args"]["name" if rest == "name" else rest]
        assert isinstance(value, str if rest == "name" else int)
        return
    assert event["name"]
    assert event["cat"]
    assert type(event["ts"]) is int
    assert event["ts"] >= 0
    assert type(event["dur"]) is int
    assert event["dur"] >= 0


def lanes(found: dict[str, Any]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Begin and end of each lane's events, by the names of its process and thread."""
    processes, threads = {}, {}
    for event in found["traceEvents"]:
        if event["name"] == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        if event["name"] == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for event in found["traceEvents"]:
        if event["ph"] == "X":
            key = processes[event["pid"]], threads[event["pid"], event["tid"]]
            spans.setdefault(key, []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(set(threads.values())) <= len(threads) == len({tid for _, tid in threads})
    return spans


def test_the_kinds_are_in_the_order_of_the_engine() -> None:
    source = Path(__file__).parents[2] / "ckptfmt" / "_native" / "run.pxd"
    body = source.read_text().partition("cdef enum Doing:")[2].partition("\ncdef")[0]
    numbers = [int(line.split("=")[1]) for line in body.splitlines() if "=" in line]
    assert numbers == list(range(len(KINDS)))
    assert TRACE_DTYPE.itemsize == 40


def test_an_event_comes_back_with_what_it_is_about() -> None:
    found = parsed(trace((10, 35, 3, 4_194_304, READ, 1), (40, 41, 2, 9, COPY, 1)), run="A", n=1)
    assert found["otherData"] == {
        "run": "A", "n": 1, "clock": "CLOCK_MONOTONIC", "began_ns": 5_000_010_777
    }  # fmt: skip
    read, copy = (e for e in found["traceEvents"] if e["ph"] == "X")
    assert (read["ts"], read["dur"], read["name"], read["cat"]) == (0, 25, "read", "read")
    assert read["args"] == {"op": 3, "file": FILES[1], "offset": 3 * 4096, "nbytes": 4_194_304}
    assert (copy["ts"], copy["dur"], copy["name"]) == (30, 1, "copy to the device")
    assert copy["args"] == {"op": 2, "file": FILES[0], "offset": 2 * 4096, "nbytes": 9}
    assert lanes(found) == {
        ("npu:0", "worker 1: reads"): [(0, 25)],
        ("npu:0", "worker 1: copies to the device"): [(30, 31)],
    }


def test_a_wait_tells_no_bytes_and_an_unknown_op_no_file() -> None:
    found = parsed(trace((0, 1, 7, 0, DISK, 0), (2, 3, 8, 5, READ, 0), (4, 5, -1, 0, DEVICE, 0)))
    arguments = {e["name"]: e["args"] for e in found["traceEvents"] if e["ph"] == "X"}
    assert arguments == {
        "wait for the disk": {"op": 7, "file": FILES[1], "offset": 7 * 4096},
        "read": {"nbytes": 5},
        "wait for the device": {},
    }


def test_what_overlaps_is_in_lanes_side_by_side() -> None:
    rows = [(0, 30, 0, 1, READ, 0), (10, 20, 1, 1, READ, 0), (20, 40, 2, 1, READ, 0),
            (25, 26, 3, 1, READ, 0), (30, 31, 4, 1, READ, 0)]  # fmt: skip
    assert lanes(parsed(trace(*rows))) == {
        ("npu:0", "worker 0: reads"): [(0, 30), (30, 31)],
        ("npu:0", "worker 0: reads (2)"): [(10, 20), (20, 40)],
        ("npu:0", "worker 0: reads (3)"): [(25, 26)],
    }


def test_workers_and_kinds_have_lanes_of_their_own_in_order() -> None:
    rows = [(0, 9, 0, 1, kind, worker) for kind in reversed(range(6)) for worker in (1, 0)]
    found = parsed(trace(*rows))
    expected = [f"worker {w}: {kind.lane}" for w in (0, 1) for kind in KINDS]
    assert [name for _, name in lanes(found)] == expected
    sorts = [e["args"]["sort_index"] for e in found["traceEvents"] if e["name"].endswith("_index")]
    assert sorts == sorted(set(sorts))


def test_devices_are_processes_with_one_clock() -> None:
    found = parsed(
        trace((5, 6, 0, 1, COPY, 0), device="npu:0"), trace((2, 3, 0, 1, COPY, 0), device="npu:1"),
        trace((8, 9, 0, 1, COPY, 0), (5, 7, 0, 1, COPY, 0), device="npu:0"),
    )  # fmt: skip
    assert lanes(found) == {
        # The second of npu:0's plans ran while its first one did.
        ("npu:0", "worker 0: copies to the device"): [(3, 4), (6, 7)],
        ("npu:0", "worker 0: copies to the device (2)"): [(3, 5)],
        ("npu:1", "worker 0: copies to the device"): [(0, 1)],
    }


@pytest.mark.parametrize("traces", [[], [trace()], [trace(), trace(device="npu:1")]])
def test_a_load_that_recorded_nothing_is_a_trace_all_the_same(traces: list[Trace]) -> None:
    found = parsed(*traces)
    assert found["otherData"]["began_ns"] == 0
    assert not [e for e in found["traceEvents"] if e["ph"] == "X"]


@pytest.mark.parametrize("seed", range(20))
def test_any_recording_is_drawn_whole_and_without_overlap(seed: int) -> None:
    rng = random.Random(seed)
    traces, given = [], []
    for device in ("npu:0", "npu:1", "npu:0"):
        count = rng.randint(0, 300)
        events = np.zeros(count, TRACE_DTYPE)
        # In ns, so that rounding is tried; many begin where others end.
        times = [rng.randrange(10**15, 10**15 + 30_000) for _ in range(40)]
        for i in range(count):
            begin, end = sorted(rng.choices(times, k=2))
            events[i] = (begin, end, rng.randrange(8), rng.randrange(99), rng.randrange(6),
                         rng.randrange(3))  # fmt: skip
            given.append((device, *events[i].tolist()))
        traces.append(Trace(device, events, FILES, ops(8)))
    found = parsed(*traces)
    began = min((row[1] for row in given), default=0)
    assert found["otherData"]["began_ns"] == began
    expected = sorted(
        (device, (begin - began) // 1000, (end - began) // 1000, nbytes,
         f"worker {worker}: {KINDS[kind].lane}")
        for device, begin, end, _, nbytes, kind, worker in given
    )  # fmt: skip
    names = {
        (e["name"], e["tid"]): e["args"]["name"]
        for e in found["traceEvents"] if e["name"].endswith("_name")
    }  # fmt: skip
    assert expected == sorted(
        (names["process_name", e["pid"]], e["ts"], e["ts"] + e["dur"], e["args"].get("nbytes", 0),
         names["thread_name", e["tid"]].partition(" (")[0])
        for e in found["traceEvents"] if e["ph"] == "X"
    )  # fmt: skip
    for spans in lanes(found).values():
        for (_, end), (begin, _) in pairwise(spans):
            assert begin >= end


# ---- the file ----


def test_a_trace_is_written_whole_in_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    path.write_text("old")
    write(path, [trace((0, 1, 0, 1, READ, 0))], {"run": 1})
    assert json.loads(path.read_text()) == parsed(trace((0, 1, 0, 1, READ, 0)), run=1)
    assert os.listdir(tmp_path) == ["load.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real.json")
    write(tmp_path / "link", [], {})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["traceEvents"] == []


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path, [trace((0, 1, 0, 1, READ, 0))], {})
    reader.join()
    assert len(json.loads(read[0])["traceEvents"]) == 5
    assert path.is_fifo()


@pytest.mark.parametrize(
    ("name", "code"), [("missing/load.json", errno.ENOENT), ("", errno.EISDIR)]
)
def test_where_nothing_can_be_written_the_file_is_named(
    tmp_path: Path, name: str, code: int
) -> None:
    path = str(tmp_path / name) if name else str(tmp_path)
    with pytest.raises(FileError, match="the trace cannot be written") as caught:
        write(path, [], {})
    assert (caught.value.errno, caught.value.filename) == (code, path)


def test_a_full_disk_leaves_the_old_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "load.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError) as caught:
        write(path, [], {})
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["load.json"]
