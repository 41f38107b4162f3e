"""A batch whose jobs are killed, that is interrupted, that is killed itself: the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from tests.helpers.fleets import report_of, start_batch, write_manifest, write_model
from tests.helpers.fork_server import fault, wait_until

#: Each of the models has four partitions of this size.
PARTITION = "1100KiB"


class Fleet:
    """Three models in a folder, and batches of them that meet faults."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.library = library
        self.gate, self.log = folder / "gate", folder / "log"
        items: list[dict[str, Any]] = []
        for i in range(3):
            write_model(folder / f"m{i}", 7 + 8 * i, scale=4)
            items.append({"source": f"m{i}", "target": f"t{i}.ckpt"})
        self.manifest = write_manifest(folder, items, partition_size=PARTITION, workers=1)

    def start(self, *faults: str, jobs: int = 2) -> subprocess.Popen[str]:
        """A batch under these faults; its jobs inherit them."""
        env = {
            **os.environ, "LD_PRELOAD": str(self.library), "FAULTY_IO": "\n".join(faults),
            "FAULTY_IO_GATE": str(self.gate), "FAULTY_IO_LOG": str(self.log),
        }  # fmt: skip
        return start_batch(self.manifest, "--jobs", jobs, env=env)

    def held(self, count: int) -> None:
        """Wait until so many writes are held."""
        wait_until(lambda: self.log.exists() and len(self.log.read_text().splitlines()) >= count)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Run without faults; what becomes of the items, by their targets' names."""
        before = len(report_of(self.manifest)) if self.has_report else 0
        done = start_batch(self.manifest, env=dict(os.environ))
        _, stderr = done.communicate(timeout=120)
        assert done.returncode == 0, stderr
        for i in range(3):
            assert ckptfmt.verify(self.folder / f"t{i}.ckpt", against=self.folder / f"m{i}").ok
        return {Path(e["target"]).stem: e for e in report_of(self.manifest)[before:]}

    @property
    def has_report(self) -> bool:
        return self.manifest.with_name(self.manifest.name + ".report.jsonl").exists()

    def processes(self) -> list[str]:
        """Those that write one of the targets: they hold its folder open."""
        found = []
        for path in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                link = str(path.readlink())
            except OSError:
                continue
            if link.startswith(str(self.folder)) and ".partial" in link:
                found.append(link)
        return found


@pytest.fixture
def fleet(tmp_path: Path, faulty_io: Path) -> Fleet:
    return Fleet(tmp_path, faulty_io)


#: The second partition of each target: the first is finished by then.
SECOND = "part-00001"


def holding(*more: str) -> tuple[str, ...]:
    """Writes to second partitions are noted, and held until the gate opens."""
    return (
        fault("pwrite", "log", onward=True, path=SECOND),
        fault("pwrite", "hold", onward=True, path=SECOND),
        *more,
    )


def test_a_job_that_is_killed_fails_alone_and_goes_on_later(fleet: Fleet) -> None:
    batch = fleet.start(fault("pwrite", "kill", path="t1.ckpt.partial/part-00001"))
    stdout, stderr = batch.communicate(timeout=120)
    assert batch.returncode == 1, stderr
    assert stdout.startswith("2 done, ")
    assert "t1.ckpt: failed: its process was ended by SIGKILL (SIGKILL often means" in stderr
    (failed,) = [e for e in report_of(fleet.manifest) if e["outcome"] == "failed"]
    assert failed["error"]["type"] == "killed"
    assert not (fleet.folder / "t1.ckpt").exists()
    found = fleet.finish()
    assert {name: e["outcome"] for name, e in found.items()} == {
        "t0": "skipped", "t1": "done", "t2": "skipped"
    }  # fmt: skip
    assert found["t1"]["resumed"] == 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_stops_all_jobs_and_they_go_on_later(
    number: signal.Signals, fleet: Fleet
) -> None:
    batch = fleet.start(*holding())
    fleet.held(2)
    batch.send_signal(number)
    fleet.gate.touch()  # the writes under way end
    stdout, stderr = batch.communicate(timeout=120)
    assert (batch.returncode, stdout) == (1, ""), stderr
    assert "Traceback" not in stderr
    assert [e["outcome"] for e in report_of(fleet.manifest)] == ["stopped"] * 3
    assert not fleet.processes()
    assert not list(fleet.folder.glob("t?.ckpt"))
    found = fleet.finish()
    assert [found[f"t{i}"]["resumed"] > 0 for i in range(3)] == [True, True, False]


@pytest.mark.slow
def test_a_second_interrupt_kills_what_does_not_stop(fleet: Fleet) -> None:
    batch = fleet.start(*holding())
    fleet.held(2)
    batch.send_signal(signal.SIGINT)
    wait_until(lambda: batch.poll() is None)
    for _ in range(3):  # the writes are held, and so are the jobs
        batch.send_signal(signal.SIGINT)
        try:
            batch.wait(timeout=1)
            break
        except subprocess.TimeoutExpired:
            continue
    _, stderr = batch.communicate(timeout=120)
    assert batch.returncode == 1, stderr
    kinds = [(e["outcome"], (e["error"] or {}).get("type")) for e in report_of(fleet.manifest)]
    assert sorted(kinds, key=str) == [("failed", "killed")] * 2 + [("stopped", None)]
    assert not fleet.processes()
    fleet.finish()


@pytest.mark.slow
def test_jobs_of_a_batch_that_was_killed_stop(fleet: Fleet) -> None:
    batch = fleet.start(*holding())
    fleet.held(2)
    batch.kill()
    batch.wait()
    assert fleet.processes()
    fleet.gate.touch()
    wait_until(lambda: not fleet.processes())
    batch.communicate(timeout=60)  # its pipes are held by nobody any more
    assert not list(fleet.folder.glob("t?.ckpt"))
    found = fleet.finish()
    assert [found[f"t{i}"]["outcome"] for i in range(3)] == ["done"] * 3
    assert found["t0"]["resumed"] > 0


#: In every process of a batch, by PYTHONPATH: one that says something when it ends, one that never
#: ends, one that does not begin.
AS_IT_ENDS = {
    "says": "atexit.register(print, 'mind the gap', file=sys.stderr)",
    "stays": "threading._register_atexit(time.sleep, 1000)",
    "refuses": "sys.exit('no such luck')",
}


@pytest.fixture
def odd(fleet: Fleet, tmp_path: Path) -> Callable[..., Any]:
    """Run the first item in a process with a habit."""

    def run(habit: str) -> dict[str, Any]:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            "import atexit, sys, threading, time\n"
            f"if '--multiprocessing-fork' in sys.argv:\n    {AS_IT_ENDS[habit]}\n"
        )
        path = f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"
        batch = start_batch(
            fleet.manifest, "--item", 1, "--json", env={**os.environ, "PYTHONPATH": path}
        )
        stdout, stderr = batch.communicate(timeout=120)
        assert stdout, stderr
        (item,) = json.loads(stdout)["items"]
        return {**item, "stderr": stderr}

    return run


def test_what_a_job_says_on_stderr_is_told(odd: Callable[..., Any]) -> None:
    item = odd("says")
    assert (item["outcome"], item["messages"]) == ("done", ["mind the gap"])
    assert "t0.ckpt: mind the gap" in item["stderr"]


@pytest.mark.slow
def test_a_job_that_has_said_all_is_not_waited_for(odd: Callable[..., Any]) -> None:
    assert odd("stays")["outcome"] == "done"


def test_a_job_that_ends_without_a_word_is_a_failure(odd: Callable[..., Any]) -> None:
    error = odd("refuses")["error"]
    assert error["type"] == "killed"
    assert error["message"] == "its process ended with exit status 1"
