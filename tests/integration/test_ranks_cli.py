"""The command line on checkpoints of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt.saving import join_ranks
from tests.helpers.models import random_tensor, write_folder
from tests.integration.test_cli import data, run

SOURCE = {
    "q.weight": random_tensor((64, 48), torch.bfloat16, 1),
    "o.weight": random_tensor((48, 64), torch.bfloat16, 2),
    "gate_up": random_tensor((8, 3), torch.float32, 3),
    "norm.weight": random_tensor((48,), torch.bfloat16, 4),
    "odd\x1b": random_tensor((7, 3), torch.float32, 5),
}
RULES = {"q.*": "colwise", "o.*": "rowwise", "gate_up": "packed_colwise", "odd*": "colwise"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(RULES))
    return write_folder(tmp_path / "model", SOURCE)


@pytest.fixture
def arguments(tmp_path: Path, source: Path) -> list[Any]:
    """Of ``convert``."""
    plan = ["--tensor-parallel-plan", tmp_path / "plan.json"]
    return [source, tmp_path / "cut.ckpt", "--tensor-parallel", "2", *plan]


def test_convert_tells_what_is_cut_and_why_others_are_not(
    tmp_path: Path, arguments: list[Any]
) -> None:
    dry = run("convert", *arguments, "--dry-run")
    assert dry.stdout.splitlines()[2] == "cut 3 tensors for 2 ranks, 2 shared whole"
    assert dry.stdout.splitlines()[-1] == f"would write {tmp_path / 'cut.ckpt'}"
    assert not (tmp_path / "cut.ckpt").exists()
    done = run("convert", *arguments)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:3] == [
        line for line in dry.stdout.splitlines()[:3] if not line.startswith("  ")
    ]
    assert sorted(done.stderr.splitlines()) == [
        "shared whole, no rule has their names: 1: norm.weight",
        "shared whole, not divisible by 2: 1: odd\\x1b",
    ]
    told = data("convert", *arguments, "--force")
    assert told["tensor_parallel"] == {
        "ranks": 2, "cut": 3, "whole": {"no rule has their names": 1, "not divisible by 2": 1},
    }  # fmt: skip


def test_inspect_shows_ranks_and_pieces(tmp_path: Path, arguments: list[Any]) -> None:
    run("convert", *arguments)
    path = tmp_path / "cut.ckpt"
    lines = run("inspect", path).stdout.splitlines()
    shared, own = 48 * 2 + 7 * 3 * 4, (2 * 64 * 48 * 2 + 96) // 2
    assert (
        f"ranks         2, pieces of whole tensors: {own / 1000:.2f} kB of its own, "
        f"{shared} B shared"
    ) in lines
    (line,) = [line for line in lines if line.startswith("q.weight") and "rank 1" in line]
    assert line.endswith("of rank 1, dimension 0 of 64")
    (line,) = [line for line in lines if line.startswith("gate_up") and "rank 0" in line]
    assert line.endswith("of rank 0, dimension 0 of 8 in 2 blocks")
    told = data("inspect", path)
    assert told["topology"] == {
        "kind": "cut", "tensor_parallel": 2, "layout": {}, "shared_nbytes": shared,
        "rank_nbytes": [own, own],
    }  # fmt: skip
    by_rank = {(t["names"][0], t.get("rank")): t.get("cut") for t in told["tensors"]}
    assert by_rank["o.weight", 1] == {"dim": 1, "blocks": [64]}
    assert by_rank["norm.weight", None] is None
    tree = run("inspect", path, "--tree").stdout
    assert "norm" in tree


def test_load_takes_a_rank(tmp_path: Path, arguments: list[Any]) -> None:
    run("convert", *arguments)
    path = tmp_path / "cut.ckpt"
    total = data("load", path)["nbytes"]
    mine = data("load", path, "--rank", "1", "--tensor-parallel", "2")
    assert mine["nbytes"] < total
    assert mine["read_nbytes"] <= mine["nbytes"] + 5 * 4096
    assert data("load", path, "--rank", "1")["nbytes"] == mine["nbytes"]
    assert data("load", path, "--rank", "3", "--tensor-parallel", "4")["nbytes"] < mine["nbytes"]
    result = run("load", path, "--rank", "2", "--tensor-parallel", "2")
    assert result.exit_code == 2
    assert "rank is 2, expected 0 to 1 of 2" in result.stderr


def test_verify_compares_with_the_source(
    tmp_path: Path, source: Path, arguments: list[Any]
) -> None:
    run("convert", *arguments)
    result = run("verify", tmp_path / "cut.ckpt", "--against", source)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "5 tensors equal" in result.stdout
    other = {**SOURCE, "o.weight": SOURCE["o.weight"].clone()}
    other["o.weight"].view(torch.int16)[47, 63] ^= 1
    result = run("verify", tmp_path / "cut.ckpt", "--against", write_folder(tmp_path / "b", other))
    assert result.exit_code == 1
    assert f"at byte {48 * 64 * 2 - 2} of the tensor" in result.stderr


def test_a_state_is_shown_and_names_its_ranks(tmp_path: Path) -> None:
    for rank in range(2):
        own = {"w": random_tensor((8 + rank,), torch.float32, rank), "norm": torch.ones(4)}
        ckptfmt.save_dict(own, tmp_path / f"rank{rank}")
    path = tmp_path / "state.ckpt"
    join_ranks([tmp_path / "rank0", tmp_path / "rank1"], path, layout={"engine": "x\n1"})
    assert run("verify", path).exit_code == 0
    assert (
        "ranks         2, the state of each: 32 B to 36 B of its own, 16 B shared; engine x\\n1"
    ) in run("inspect", path).stdout.splitlines()
    assert data("inspect", path)["topology"]["rank_nbytes"] == [32, 36]
    result = run("load", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds the state of 2 ranks (say which: rank=0, tensor_parallel=2)" in result.stderr
    assert data("load", path, "--rank", "1")["nbytes"] == 52
    result = run("load", path, "--rank", "0", "--tensor-parallel", "4")
    assert result.exit_code == 1
    assert "holds the state of 2 ranks, 4 are wanted" in result.stderr


def test_what_measures_ordinary_checkpoints_refuses_others(
    tmp_path: Path, arguments: list[Any]
) -> None:
    run("convert", *arguments)
    result = run("bench", tmp_path / "cut.ckpt")
    assert result.exit_code == 2
    assert "is cut for ranks, and bench is for checkpoints that are not" in result.stderr
