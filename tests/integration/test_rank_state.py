"""Saving and loading by rank, without vLLM: ranks are threads, and what runs here is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt.errors import (
    ChecksumError,
    CkptError,
    FormatError,
    LoadMismatchError,
    NotFoundError,
    OptionError,
    TargetExistsError,
    UnsupportedDtypeError,
)
from ckptfmt.vllm import rank_state, rank_state_saving
from ckptfmt.vllm.rank_group import RankGroup
from ckptfmt.vllm.rank_state import RankState, has_full_weights, is_rank_state
from ckptfmt.vllm.report import load_reports
from ckptfmt.vllm.settings import Settings
from tests.helpers.children import run_child
from tests.helpers.documents import ROOT

LAYOUT = {
    "engine": "vllm", "architecture": "Model", "config": "0123456789abcdef",
    "pipeline_parallel": "1", "data_parallel": "1", "experts": "sliced", "version": "0.32.0",
    "platform": "cpu", "dtype": "float32", "quantization": "none",
}  # fmt: skip


class Model(torch.nn.Module):
    """What one rank has: its share of two tensors, one that all have, and a tied head."""

    def __init__(self, seed: float) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4)
        self.up = torch.nn.Linear(4, 6)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("cache", torch.zeros(3), persistent=False)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.fill_(seed + number)
            self.norm.weight.fill_(0.5)
            self.norm.bias.fill_(0.25)


@dataclass
class Meeting:
    """Where threads that stand for ranks tell each other how it went."""

    ranks: int
    told: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.ranks, timeout=20)

    def exchange(self, rank: int, text: str) -> list[str]:
        self.told[rank] = text
        self.barrier.wait()
        found = [self.told[rank] for rank in range(self.ranks)]
        self.barrier.wait()
        return found


class ThreadGroup(RankGroup):
    """A rank that is a thread."""

    def _told(self, text: str) -> list[str]:
        told: list[str] = self.group.exchange(self.rank, text)
        return told


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """What `this_group` and `layout_here` find: of the thread that asks."""
    here = threading.local()
    here.group, here.layout = RankGroup(0, 1, 1, 1, 1), LAYOUT

    def layout_here(model: Any, model_config: Any, group: RankGroup) -> dict[str, str]:
        return {**here.layout, "tensor_parallel": str(group.tensor_parallel)}

    for module in (rank_state, rank_state_saving):
        monkeypatch.setattr(module, "this_group", lambda: here.group)
        monkeypatch.setattr(module, "layout_here", layout_here)
    return here


@pytest.fixture
def config(tmp_path: Path) -> SimpleNamespace:
    """A model's folder, as vLLM is given it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"not read here")
    return SimpleNamespace(model=str(folder))


def on_ranks(
    here: threading.local, ranks: int, work: Callable[[int], Any]
) -> list[BaseException | None]:
    """Do something on each rank, and give what each failed with."""
    meeting = Meeting(ranks)
    failed: list[BaseException | None] = [None] * ranks

    def run(rank: int) -> None:
        here.group = ThreadGroup(rank, ranks, ranks, 1, 1, meeting)
        here.layout = LAYOUT
        try:
            work(rank)
        except CkptError as error:
            failed[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def state_at(path: Path | str, folders: Sequence[str | None] = ()) -> RankState:
    """A rank state beside what else there is."""
    return RankState.beside(str(path), folders, Settings())


def saved(here: threading.local, config: Any, target: Path, ranks: int = 1) -> None:
    assert not any(
        on_ranks(
            here, ranks,
            lambda rank: rank_state_saving.save_state(Model(rank * 10.0), config, str(target)),
        )
    )  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_rank_gets_back_what_it_had(
    tmp_path: Path, here: threading.local, config: Any, ranks: int
) -> None:
    target = tmp_path / "state.ckpt"
    saved(here, config, target, ranks)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "state.ckpt"}
    assert (target / "config.json").read_text() == "{}"
    assert not (target / "model.safetensors").exists()
    assert is_rank_state(str(target))
    ckptfmt.verify(target)

    def load(rank: int) -> None:
        model, expected = Model(-1.0), Model(rank * 10.0)
        assert state_at(target).load(model, config)
        found = model.state_dict()
        assert all(torch.equal(found[n], t) for n, t in expected.state_dict().items())
        assert model.head.weight is model.embed.weight

    assert not any(on_ranks(here, ranks, load))
    report = load_reports()[-1]
    assert report.strategy == "by rank"
    assert report.tensor_parallel == ranks
    # The rest is the same on all ranks, and stored once; tied names are counted both.
    assert report.in_part == (0 if ranks == 1 else 4)
    assert report.in_full == (7 if ranks == 1 else 3)
    assert report.nbytes == sum(t.nbytes for t in Model(0.0).parameters()) + 4


@pytest.mark.parametrize("bad", [0, 1])
def test_what_fails_on_one_rank_fails_on_all_and_leaves_nothing(
    tmp_path: Path, here: threading.local, config: Any, bad: int
) -> None:
    def save(rank: int) -> None:
        model = Model(0.0)
        if rank == bad:
            model.scale = torch.ones((), device="meta")
        rank_state_saving.save_state(model, config, str(tmp_path / "state.ckpt"))

    failed = on_ranks(here, 2, save)
    assert type(failed[bad]) is UnsupportedDtypeError
    other = failed[1 - bad]
    assert type(other) is CkptError
    assert f"saving a rank state failed on rank {bad} of 2: UnsupportedDtypeError" in str(other)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    saved(here, config, tmp_path / "state.ckpt", 2)  # nothing is in the way


def test_what_fails_while_joining_fails_on_all_and_leaves_nothing(
    tmp_path: Path, here: threading.local, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join_ranks(paths: list[str], target: str, **options: Any) -> None:
        assert [Path(p).name for p in paths] == [
            "state.ckpt.rank-00000-of-00002", "state.ckpt.rank-00001-of-00002"
        ]  # fmt: skip
        assert all(ckptfmt.open(p).names for p in paths)
        (tmp_path / "state.ckpt.partial").mkdir()
        raise ChecksumError("a disk that forgets")

    monkeypatch.setattr(rank_state_saving.saving, "join_ranks", join_ranks)
    failed = on_ranks(
        here, 2,
        lambda rank: rank_state_saving.save_state(Model(0.0), config, str(tmp_path / "state.ckpt")),
    )  # fmt: skip
    assert type(failed[0]) is ChecksumError
    assert type(failed[1]) is CkptError
    assert str(failed[1]) == (
        "joining a rank state failed on rank 0 of 2: ChecksumError: a disk that forgets"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_a_target_that_is_there_stays_unless_forced(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    target = tmp_path / "state.ckpt"
    saved(here, config, target)
    before = (target / "SHA256SUMS").read_bytes()
    with pytest.raises(TargetExistsError, match="the target exists"):
        rank_state_saving.save_state(Model(1.0), config, str(target))
    assert (target / "SHA256SUMS").read_bytes() == before
    rank_state_saving.save_state(Model(1.0), config, str(target), force=True, alignment="8KiB")
    with ckptfmt.Checkpoint(target, rank=0, tensor_parallel=1) as checkpoint:
        assert checkpoint.index.alignment == 8192
    assert (target / "SHA256SUMS").read_bytes() != before
    assert {p.name for p in tmp_path.iterdir()} == {"model", "state.ckpt"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "fp16"}, "save_rank_state: 'dtype', expected only 'alignment'"),
        ({"alignment": "3KiB"}, "alignment"),
        ({"workers": 0}, "workers"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, here: threading.local, config: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(OptionError, match=told):
        rank_state_saving.refuse_saving(str(tmp_path / "state.ckpt"), **options)
    with pytest.raises(OptionError, match=told):
        rank_state_saving.save_state(Model(1.0), config, str(tmp_path / "state.ckpt"), **options)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_groups_that_share_a_model_are_not_saved(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    here.group = replace(here.group, sharing=2)
    with pytest.raises(OptionError, match="2 groups of 1 ranks run one model, expected one"):
        rank_state_saving.save_state(Model(1.0), config, str(tmp_path / "state.ckpt"))


def test_a_name_on_a_hub_has_no_files_to_travel(
    tmp_path: Path, here: threading.local, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "state.ckpt"
    with caplog.at_level(logging.WARNING, "vllm.ckptfmt"):
        rank_state_saving.save_state(Model(0.0), SimpleNamespace(model="org/name"), str(target))
    assert "org/name is no folder: its configuration and tokenizer do not travel" in caplog.text
    assert state_at(target).load(Model(1.0), None)


KILLED = """
import os, sys
from types import SimpleNamespace
from ckptfmt import target, writer
from ckptfmt.vllm import rank_state_saving
from ckptfmt.vllm.rank_group import RankGroup
import tests.integration.test_rank_state as here

folder, when = sys.argv[1:]
rank_state_saving.this_group = lambda: RankGroup(0, 1, 1, 1, 1)
rank_state_saving.layout_here = lambda *_: {**here.LAYOUT, 'tensor_parallel': '1'}
if when == "writing":
    writer.Writer.run = lambda *_, **__: os._exit(9)
elif when == "joining":
    rank_state_saving.saving.join_ranks = lambda *_, **__: os._exit(9)
else:
    write = target.Target.write_sums
    target.Target.write_sums = lambda self: os._exit(9) if "rank-" not in self.path else write(self)
rank_state_saving.save_state(
    here.Model(1.0), SimpleNamespace(model=folder + "/model"), folder + "/state.ckpt"
)
"""


@pytest.mark.parametrize("when", ["writing", "joining", "finishing"])
def test_a_save_that_is_killed_leaves_nothing_that_loads(
    tmp_path: Path, here: threading.local, config: Any, when: str
) -> None:
    target = tmp_path / "state.ckpt"
    assert run_child(KILLED, tmp_path, when, PYTHONPATH=str(ROOT)).returncode == 9
    assert not target.exists()
    left = {path.name for path in tmp_path.iterdir()} - {"model"}
    part = "state.ckpt.rank-00000-of-00001"
    assert left == {
        "writing": {f"{part}.partial"}, "joining": {part},
        "finishing": {part, "state.ckpt.partial"},
    }[when]  # fmt: skip
    for name in ("state.ckpt", *left):
        with pytest.raises((NotFoundError, OptionError, FormatError)):
            state_at(tmp_path / name).load(Model(1.0), config)
    if when == "finishing":
        with pytest.raises(TargetExistsError, match="an unfinished checkpoint"):
            rank_state_saving.refuse_saving(str(target))
    rank_state_saving.save_state(Model(1.0), config, str(target), force=when == "finishing")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "state.ckpt"}
    assert state_at(target).load(Model(2.0), config)


# ---- what does not fit ----


def test_another_degree_is_refused_and_both_are_told(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    saved(here, config, tmp_path / "state.ckpt", 2)
    model = Model(7.0)
    with pytest.raises(
        LoadMismatchError, match=r"the tensor-parallel size is 2, expected 1$"
    ) as caught:
        state_at(tmp_path / "state.ckpt").load(model, config)
    assert "load it with tensor_parallel_size=2" in str(caught.value.hint)
    assert "model_loader_extra_config={'path': FOLDER}" in str(caught.value.hint)
    assert torch.equal(model.up.weight, Model(7.0).up.weight)


@pytest.mark.parametrize("key", ["version", "config", "architecture", "platform", "quantization"])
def test_what_does_not_fit_is_loaded_by_name_where_there_are_full_weights(
    tmp_path: Path, here: threading.local, config: Any, key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    saved(here, config, tmp_path / "state.ckpt")
    here.layout = {**LAYOUT, key: "another"}
    state = state_at(tmp_path / "state.ckpt", [None, config.model])
    assert state.full == config.model
    with caplog.at_level(logging.WARNING, "vllm.ckptfmt"):
        assert not state.load(Model(7.0), config)
    assert f"ckptfmt: loading {config.model} by name, because {tmp_path}/state.ckpt" in caplog.text
    assert "expected another" in caplog.text
    with pytest.raises(LoadMismatchError, match="expected another"):
        state_at(state.path).load(Model(7.0), config)


def test_tensors_that_differ_are_named(tmp_path: Path, here: threading.local, config: Any) -> None:
    saved(here, config, tmp_path / "state.ckpt")
    other = Model(1.0)
    other.up = torch.nn.Linear(4, 5)
    other.down = torch.nn.Linear(2, 2, bias=False)
    del other.norm
    with pytest.raises(LoadMismatchError) as caught:
        state_at(tmp_path / "state.ckpt").load(other, config)
    told = str(caught.value)
    assert "2 different: up.weight: F32 [6, 4] here, F32 [5, 4] to fill" in told
    assert "1 missing in the checkpoint: down.weight" in told
    assert "2 not among the tensors to fill: norm.weight, norm.bias" in told


def test_damage_is_an_error_whatever_else_is_there(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    target = tmp_path / "state.ckpt"
    saved(here, config, target, 2)
    with ckptfmt.Checkpoint(target, rank=1, tensor_parallel=2) as checkpoint:
        extent = checkpoint.info("up.weight").extents[0]
        partition = target / checkpoint.index.partitions[extent.partition].file
    with partition.open("r+b") as stream:
        stream.seek(extent.offset)
        stream.write(b"\xff")
    state = state_at(target, [config.model])
    failed = on_ranks(here, 2, lambda rank: state.load(Model(1.0), config))
    assert failed[0] is None
    assert isinstance(failed[1], ChecksumError)
    assert failed[1].tensor == "up.weight"
    unverified = RankState(str(target), None, Settings(verify=False))
    assert not any(on_ranks(here, 2, lambda rank: unverified.load(Model(1.0), config)))


def test_what_is_no_rank_state_is_said_so(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    with pytest.raises(NotFoundError, match="no such rank state"):
        state_at(tmp_path / "none", [config.model]).load(Model(1.0), config)
    with pytest.raises(OptionError, match="not a rank state"):
        state_at(config.model, [config.model]).load(Model(1.0), config)
    ckptfmt.save_model(Model(1.0), tmp_path / "plain.ckpt")
    with pytest.raises(OptionError, match="not a rank state") as caught:
        state_at(tmp_path / "plain.ckpt", []).load(Model(1.0), config)
    assert "save_rank_state" in str(caught.value.hint)


def test_which_folders_have_full_weights(
    tmp_path: Path, here: threading.local, config: Any
) -> None:
    saved(here, config, tmp_path / "state.ckpt")
    ckptfmt.save_model(Model(1.0), tmp_path / "plain.ckpt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    found = {name: has_full_weights(str(tmp_path / name)) for name in (
        "state.ckpt", "plain.ckpt", "model", "empty", "none"
    )}  # fmt: skip
    assert found == {
        "state.ckpt": False, "plain.ckpt": True, "model": True, "empty": False, "none": False
    }  # fmt: skip
    folders = [str(tmp_path / name) for name in ("empty", "state.ckpt", "plain.ckpt", "model")]
    assert state_at("x", folders).full == str(tmp_path / "plain.ckpt")
    assert state_at("x", [None]).full is None
