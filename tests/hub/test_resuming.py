"""A streamed conversion that was cut off goes on, to the same bytes; what it needs of the disk."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

import ckptfmt
from tests.helpers.children import run_child
from tests.helpers.models import random_tensor, write_folder
from tests.hub.places import FOREIGN, PARTITIONS, Place, environment
from tests.hub.server import Fault, File

#: Killed as soon as a shard's sum was right, or as soon as so many partitions are noted as done.
CHILD = """
import os, signal, sys
import ckptfmt
from ckptfmt import target
from ckptfmt.sources import streamed
address, path, event, number, size = sys.argv[1:]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
confirm, write_state = streamed.StreamedSource._confirm, target.Target.write_state
def confirming(self, file):
    confirm(self, file)
    if event == "shard" and file == int(number):
        die()
def writing(self, state):
    write_state(self, state)
    if event == "partition" and len(state.done) == int(number):
        die()
streamed.StreamedSource._confirm, target.Target.write_state = confirming, writing
ckptfmt.convert(address, path, stream=True, resume=True, partition_size=int(size))
"""
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def killed(place: Place, event: str, number: int) -> None:
    env = dict.fromkeys(FOREIGN, "") | environment(place.hub, place.target.parent)
    child = run_child(
        CHILD, place.address, place.target, event, str(number), str(PARTITIONS["partition_size"]),
        **env,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not place.target.exists()


def noted(place: Place) -> list[int]:
    state = place.target.with_name(place.target.name + ".partial") / "resume.json"
    return sorted(msgspec.json.decode(state.read_bytes())["done"])


@pytest.mark.parametrize("event", ["shard", "partition"])
def test_killed_after_each_shard_it_goes_on_to_the_same_bytes(
    place: Place, event: str, tmp_path: Path
) -> None:
    ckptfmt.convert(place.address, tmp_path / "whole", stream=True, **PARTITIONS)
    before = -1
    for number in range(3):
        killed(place, event, number + (event == "partition"))
        done = noted(place)
        assert len(done) >= max(before, 0)
        before = len(done)
    place.hub.requests.clear()
    report = place.convert(stream=True, resume=True)
    assert sorted(report.resumed) == done
    if event == "partition":
        assert len(done) == 3
        # What is done is not asked for again, but for headers.
        assert place.hub.count(f"/storage/org/model/{SHARDS[0]}") <= 1
    whole = place.digests()
    place.target = tmp_path / "whole"
    assert whole == place.digests()


def test_partitions_of_a_shard_that_came_damaged_do_not_count(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of a file is known at its end, when its first tensors have long been written."""
    from ckptfmt import writer
    from ckptfmt.sources import blocks

    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 64 << 10)
    written = []
    done = writer.Writer._chunk_done

    def noting(self: writer.Writer, chunk: writer.Chunk, file: writer._OutputFile) -> None:
        done(self, chunk, file)
        written.append(chunk.partition)

    monkeypatch.setattr(writer.Writer, "_chunk_done", noting)
    place.hub.faults = [Fault(f"/storage/org/model/{SHARDS[1]}", flip=10_000, times=1000)]
    # A partition for each weight, of which each shard has two.
    options = {"stream": True, "partition_size": "1200KiB", "resume": True, "workers": 1}
    error = place.failing(**options)
    assert isinstance(error, ckptfmt.HubError)
    assert error.file == SHARDS[1]
    assert {0, 1, 2} <= set(written)
    assert noted(place) == [0]  # the second one ends with a small tensor of the next shard
    place.hub.faults = []
    assert place.convert(**options).resumed == [0]
    assert ckptfmt.verify(place.target, against=place.folder).problems == []


def test_a_fetched_conversion_goes_on_with_a_streamed_one(place: Place) -> None:
    killed(place, "partition", 2)
    assert len(place.convert(resume=True).resumed) == 2
    assert ckptfmt.verify(place.target, against=place.folder).problems == []


def test_another_commit_is_not_gone_on_with(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(place, "partition", 1)
    monkeypatch.setattr("tests.hub.server.COMMIT", "f" * 40)
    with pytest.raises(ckptfmt.TargetExistsError, match="the commit was"):
        place.convert(stream=True, resume=True)


def used_nbytes(folder: Path) -> int:
    """Blocks of all files below a folder, each once."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(path, name))
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def test_the_disk_holds_the_output_and_less_than_a_shard(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    tensors = {f"t{i}": random_tensor((15, 1 << 20), torch.uint8, seed=i) for i in range(6)}
    folder = write_folder(tmp_path / "large", tensors, shards=3)
    place.hub.repositories["org/model"] = {
        path.name: File.of(path) for path in folder.iterdir() if path.is_file()
    }
    place.target = tmp_path / "place" / "model.ckpt"
    (tmp_path / "place" / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "place" / "tmp"))
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], used_nbytes(tmp_path / "place"), used_nbytes(tmp_path / "hf"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        place.convert(stream=True, partition_size="40MiB")
    finally:
        ended.set()
        sampler.join()
    shard = (folder / SHARDS[0]).stat().st_size
    output = used_nbytes(place.target)
    assert peak[0] >= output // 2
    assert peak[0] <= output + 1.1 * shard
    assert peak[0] <= output + (1 << 20)  # and less still: nothing but headers and sidecars
