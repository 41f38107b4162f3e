"""The account, the report at the end, the trace."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.children import run_child
from tests.helpers.simulator import environment
from tests.simulator.conftest import Simulate
from tests.simulator.runtime import D2H, H2D, PAGE, MiB, Pages, put


def test_what_lives_is_named(simulate: Simulate) -> None:
    runtime = simulate(devices=2)
    runtime.ok("aclrtSetDevice", 1)
    device, host, pages = runtime.malloc(100), runtime.malloc_host(200), Pages(PAGE)
    runtime.ok("aclrtHostRegisterV2", pages.address, PAGE, 2)
    stream, event = runtime.stream(), runtime.event()
    live = runtime.account()["live"]
    assert [(r["address"], r["nbytes"], r["device"], r["call"]) for r in live["device"]] == [
        (device, 100, 1, "aclrtMalloc")
    ]
    assert [(r["address"], r["nbytes"], r["call"]) for r in live["host"]] == [
        (host, 200, "aclrtMallocHost")
    ]
    assert [(r["address"], r["nbytes"], r["call"]) for r in live["registered"]] == [
        (pages.address, PAGE, "aclrtHostRegisterV2")
    ]
    assert [(s["device"], s["call"], s["pending"]) for s in live["streams"]] == [
        (1, "aclrtCreateStream", 0)
    ]
    assert [(e["device"], e["call"], e["flags"]) for e in live["events"]] == [
        (1, "aclrtCreateEventExWithFlag", 9)
    ]
    devices = runtime.account()["devices"]
    assert [(d["streams"], d["events"], d["contexts"]) for d in devices] == [(0, 0, 1), (1, 1, 1)]
    runtime.ok("aclrtFree", device)
    runtime.ok("aclrtFreeHost", host)
    runtime.ok("aclrtHostUnregister", pages.address)
    runtime.ok("aclrtDestroyEvent", event)
    runtime.ok("aclrtDestroyStream", stream)
    assert set(runtime.live().values()) == {0}


def test_what_was_done_is_counted(simulate: Simulate) -> None:
    runtime = simulate()
    stream, host, device = runtime.stream(), runtime.malloc_host(4096), runtime.malloc(4096)
    put(host, b"c" * 4096)
    runtime.reset()
    for _ in range(3):
        assert runtime.copy_async(device, host, 1024, H2D, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert runtime.copy(host, device, 512, D2H) == 0
    assert runtime.copy(host, device, 8192, D2H) != 0
    found = runtime.account()
    assert found["calls"] == {
        "aclrtMemcpyAsync": 3, "aclrtSynchronizeStream": 1, "aclrtMemcpy": 2
    }  # fmt: skip
    assert found["refused"] == {"aclrtMemcpy": 1}
    assert (found["h2d_nbytes"], found["d2h_nbytes"]) == (3072, 512)
    assert (found["async_copies"], found["sync_copies"]) == (3, 1)
    assert (found["devices"][0]["h2d_nbytes"], found["devices"][0]["d2h_nbytes"]) == (3072, 512)
    assert found["violation_count"] == found["injected"] == found["wrong_thread_calls"] == 0


def test_the_most_that_was_used_is_kept(simulate: Simulate) -> None:
    runtime = simulate()
    runtime.ok("aclrtFree", runtime.malloc(10 * MiB))
    runtime.malloc(MiB)
    assert runtime.account()["devices"][0]["peak_nbytes"] == 10 * MiB + 32
    runtime.reset()
    assert runtime.account()["devices"][0]["peak_nbytes"] == MiB + 32


CHILD = """
from tests.simulator.runtime import H2D, Runtime
runtime = Runtime("libascendcl.so").start()
host, device, stream = runtime.malloc_host(4096), runtime.malloc(4096), runtime.stream()
assert runtime.copy_async(device, host, 4096, H2D, stream) == 0
runtime.ok("aclrtSynchronizeStream", stream)
runtime.aclrtFree(64)
runtime.ok("aclrtFreeHost", host)
"""


def test_a_report_is_written_at_the_end(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    child = run_child(CHILD, **environment("9.1.0", report=report, soc="Ascend950"))
    assert child.stderr == ""
    found = json.loads(report.read_text())
    assert (found["cann"], found["soc"], found["run_mode"]) == ("9.1.0", "Ascend950", "ep")
    assert len(found["live"]["device"]) == 1
    assert found["live"]["host"] == []
    assert found["refused"] == {"aclrtFree": 1}


def test_a_child_of_fork_writes_no_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    fork = "import os, sys\nif os.fork() == 0:\n    sys.exit()\nos.wait()\nruntime.malloc(7)"
    child = run_child(CHILD + fork, **environment(report=report))
    assert child.stderr == ""
    assert len(json.loads(report.read_text())["live"]["device"]) == 2


def test_the_trace_has_a_line_for_each_call(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    child = run_child(CHILD, **environment(trace=trace))
    assert child.stderr == ""
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    calls = [line for line in lines if "call" in line]
    assert [line["call"] for line in calls] == [
        "aclInit", "aclrtSetDevice", "aclrtMallocHost", "aclrtMalloc", "aclrtCreateStream",
        "aclrtMemcpyAsync", "aclrtSynchronizeStream", "aclrtFree", "aclrtFreeHost",
    ]  # fmt: skip
    assert [line["result"] for line in calls] == [0] * 7 + [107000, 0]
    assert len({line["thread"] for line in calls}) == 1
    assert all(line["start"] <= line["end"] for line in lines)
    copy = calls[5]
    assert copy["args"]["nbytes"] == 4096
    assert copy["args"]["kind"] == H2D
    assert copy["args"]["dst"].startswith("0x")
    (ran,) = [line for line in lines if "ran" in line]
    assert (ran["ran"], ran["nbytes"], ran["device"], ran["result"]) == ("h2d", 4096, 0, 0)
    assert copy["start"] <= ran["end"] <= calls[6]["end"]
