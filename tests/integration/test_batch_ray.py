"""A batch on a real Ray cluster of two workers, one of which is killed while it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from tests.faults.conftest import faulty_io
from tests.helpers.fleet_python import MISSING, PYTHON
from tests.helpers.fleets import (
    CAUSES,
    ROOT,
    report_of,
    start_batch,
    write_fleet,
    write_manifest,
    write_model,
)  # fmt: skip
from tests.helpers.fork_server import fault, wait_until

__all__ = ["faulty_io"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


class Cluster:
    """The parent's end of tests/helpers/ray_cluster.py."""

    def __init__(self, process: subprocess.Popen[str], log: Path, gate: Path) -> None:
        self.process = process
        self.log, self.gate = log, gate
        self.address = self.read_until("address ")

    def read_until(self, start: str) -> str:
        """The rest of the line that begins so; Ray prints others."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise AssertionError(f"the cluster ended before it said {start!r}")

    def kill_first(self) -> None:
        """SIGKILL for the first worker's node."""
        assert self.process.stdin is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        self.read_until("killed")


def environment(**more: str) -> dict[str, str]:
    """Ray's children find the tests and the package, and tell nobody that they run."""
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_USAGE_STATS_ENABLED": "0", **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ray(faulty_io: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose first worker, as long as there is no gate, writes no partition to its end."""
    folder = tmp_path_factory.mktemp("ray")
    rules = (fault("pwrite", "log", onward=True, path="part-"),
             fault("pwrite", "hold", onward=True, path="part-"))  # fmt: skip
    first = {
        "LD_PRELOAD": str(faulty_io), "FAULTY_IO": "\n".join(rules),
        "FAULTY_IO_LOG": str(folder / "log"), "FAULTY_IO_GATE": str(folder / "gate"),
    }  # fmt: skip
    env = environment(**{f"FIRST_{name}": value for name, value in first.items()})
    process = subprocess.Popen(
        [PYTHON, "-m", "tests.helpers.ray_cluster"], env=env, cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Cluster(process, folder / "log", folder / "gate")
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


def start_held(manifest: Path, ray: Cluster) -> subprocess.Popen[str]:
    """A batch on the cluster, once the first worker is in the middle of a write."""
    ray.gate.unlink(missing_ok=True)
    ray.log.unlink(missing_ok=True)
    batch = start_batch(
        manifest, "--engine", "ray", "--address", ray.address, "--json",
        env=environment(), python=PYTHON,
    )  # fmt: skip
    wait_until(lambda: ray.log.exists() or batch.poll() is not None, 120)
    assert batch.poll() is None, batch.communicate()[1]
    return batch


def run(manifest: Path, address: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """A batch on the cluster; exit code, what --json prints, stderr."""
    batch = start_batch(
        manifest, "--engine", "ray", "--address", address, "--json", *options,
        env=environment(), python=PYTHON,
    )  # fmt: skip
    stdout, stderr = batch.communicate(timeout=300)
    assert stdout, stderr
    return batch.returncode, json.loads(stdout), stderr


def test_no_cluster_there(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [{"source": "a", "target": "b"}])
    batch = start_batch(
        manifest, "--engine", "ray", "--address", "127.0.0.1:9", env=environment(), python=PYTHON
    )
    stdout, stderr = batch.communicate(timeout=120)
    assert (batch.returncode, stdout) == (2, ""), stderr
    assert "--address 127.0.0.1:9: no Ray cluster answers there" in stderr


def test_an_interrupt_stops_the_tasks(ray: Cluster, tmp_path: Path) -> None:
    write_model(tmp_path / "m", 0)
    count = 24  # more than can be done until the interrupt is noticed
    items = [{"source": "m", "target": f"{i}.ckpt"} for i in range(count)]
    manifest = write_manifest(tmp_path, items)
    batch = start_held(manifest, ray)
    batch.send_signal(signal.SIGINT)
    ray.gate.touch()
    stdout, stderr = batch.communicate(timeout=120)
    assert (batch.returncode, stdout) == (1, ""), stderr
    outcomes = [entry["outcome"] for entry in report_of(manifest)]
    assert len(outcomes) == count
    assert "stopped" in outcomes
    assert set(outcomes) <= {"done", "stopped"}
    code, found, stderr = run(manifest, ray.address)
    assert code == 0, stderr
    assert found["done"] + found["skipped"] == count
    for i in range(count):
        assert ckptfmt.verify(tmp_path / f"{i}.ckpt", against=tmp_path / "m").ok


# The last one: afterwards a worker is missing.
def test_a_fleet_survives_a_killed_worker(ray: Cluster, tmp_path: Path) -> None:
    manifest = write_fleet(tmp_path)
    batch = start_held(manifest, ray)
    ray.kill_first()
    stdout, stderr = batch.communicate(timeout=300)
    assert batch.returncode == 1, stderr
    found = json.loads(stdout)
    # One whose node died after the work and before its word is found to be done by the next.
    assert found["done"] + found["skipped"] == 17, stderr
    assert found["failed"] == 3
    for item in found["items"]:
        name = Path(item["target"]).stem
        assert (item["outcome"] == "failed") == (name in CAUSES)
        if name in CAUSES:
            assert CAUSES[name] in item["error"]["message"]
        else:
            assert ckptfmt.verify(item["target"], against=tmp_path / item["source"]).ok
    assert len(report_of(manifest)) == 20
    assert not list((tmp_path / "made").glob("*.partial"))

    shutil.rmtree(tmp_path / "made" / "model-07.ckpt")
    code, again, _ = run(manifest, ray.address, "--jobs", "2")
    assert (code, again["done"], again["skipped"], again["failed"]) == (1, 1, 16, 3)
