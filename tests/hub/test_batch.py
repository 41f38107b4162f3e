"""A batch of repositories: what a manifest says of hubs, and what is skipped the next time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from ckptfmt import batch_job
from ckptfmt.conversion import planned
from tests.helpers.fleets import ROOT, write_manifest
from tests.hub.places import Place, environment
from tests.hub.server import Hub


def batch(manifest: Path, hub: Hub, folder: Path) -> list[dict[str, Any]]:
    """Run it; the results of its items."""
    env = {**os.environ, **environment(hub, folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "ckptfmt", "batch", manifest, "--json"], env=env, cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def test_repositories_of_both_hubs(hub: Hub, folder: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [
        {"source": "hf://org/model", "target": "a.ckpt"},
        {"source": "org/model", "target": "b.ckpt", "from": "modelscope", "stream": True},
        {"source": "org/model", "target": "c.ckpt", "stream": True},
        {"source": "org/nothing", "target": "d.ckpt"},
    ])  # fmt: skip
    items = batch(manifest, hub, tmp_path)
    assert [item["outcome"] for item in items] == ["done"] * 3 + ["failed"]
    assert "org/nothing" in items[3]["error"]["message"]
    for name in "abc":
        assert ckptfmt.verify(tmp_path / f"{name}.ckpt", against=folder).ok
    shutil.rmtree(tmp_path / "hf")  # fetched again, the files are newer than what was made of them
    again = batch(manifest, hub, tmp_path)
    assert [item["outcome"] for item in again] == ["skipped"] * 3 + ["failed"]


@pytest.mark.parametrize("kind", ["huggingface"])
def test_blocks_of_a_stream_count_as_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "_resident_nbytes", lambda: 0)
    weights = sum(path.stat().st_size for path in place.folder.glob("*.safetensors"))
    with planned(place.folder, place.target) as local:
        plain = batch_job.need_of(local)
    with planned(place.address, place.target, stream=True) as streamed:
        need = batch_job.need_of(streamed)
    assert need.memory_nbytes == plain.memory_nbytes + weights
    assert need.disk_nbytes == plain.disk_nbytes
