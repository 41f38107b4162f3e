"""Checkpoints of ranks stand still, too: read, read plainly, made again, and their id."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from ckptfmt.version import VERSION

FOLDER = Path(__file__).parent / "ranks"
NAMES = ["cut.ckpt", "state.ckpt"]
EACH = pytest.mark.parametrize("name", NAMES)


def expected(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def index_of(name: str) -> Any:
    return json.loads((FOLDER / name / "ckptfmt.json").read_bytes())


def test_nothing_was_taken_away() -> None:
    assert {f"{name}{end}" for name in NAMES for end in ("", ".json")} == set(os.listdir(FOLDER))


def assert_holds(checkpoint: ckptfmt.Checkpoint, values: list[dict[str, Any]]) -> None:
    assert set(checkpoint) == {name for value in values for name in value["names"]}
    for value in values:
        for name in value["names"]:
            entry = checkpoint.info(name)
            assert (entry.dtype, list(entry.shape)) == (value["dtype"], value["shape"])
            assert list(entry.names) == value["names"]
            assert bytes(checkpoint.read(name)).hex() == value["hex"]


@EACH
def test_each_rank_has_what_it_had(name: str) -> None:
    values = expected(name)["ranks"]
    for rank, mine in enumerate(values):
        with ckptfmt.open(FOLDER / name, rank=rank, tensor_parallel=len(values)) as checkpoint:
            assert_holds(checkpoint, mine)


def test_what_was_cut_is_joined() -> None:
    with ckptfmt.open(FOLDER / "cut.ckpt") as checkpoint:
        assert_holds(checkpoint, expected("cut.ckpt")["whole"])


@EACH
def test_plain_python_reads_a_rank(name: str) -> None:
    index = index_of(name)
    assert index["requires"] == ["rank-partitions"]
    for rank, values in enumerate(expected(name)["ranks"]):
        mine = {
            key: tensor
            for tensor in index["tensors"] if tensor.get("rank", rank) == rank
            for key in tensor["names"]
        }  # fmt: skip
        for value in values:
            data = b""
            for number, offset, nbytes in mine[value["names"][-1]]["extents"]:
                file = index["partitions"][number]["file"]
                data += (FOLDER / name / file).read_bytes()[offset : offset + nbytes]
            assert data.hex() == value["hex"]


@EACH
def test_verify_finds_nothing(name: str) -> None:
    assert ckptfmt.verify(FOLDER / name).problems == []


@EACH
def test_the_id_is_what_section_6_says(name: str) -> None:
    found = index_of(name)
    provenance = json.loads(json.dumps(found["provenance"], sort_keys=True))
    fields = [found[key] for key in ("alignment", "partitions", "tensors")]
    text = json.dumps([*fields, provenance, found["topology"]], separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for partition in found["partitions"]:
        data = (FOLDER / name / partition["file"]).read_bytes()
        digest.update(data[-partition["table_nbytes"] : -4])
    assert digest.hexdigest()[:32] == found["id"]


@EACH
def test_the_same_conversion_gives_the_same_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from tests.golden import make_ranks

    assert make_ranks.expected()[name] == expected(name)
    make_ranks.make(name, tmp_path / name)
    again = json.loads((tmp_path / name / "ckptfmt.json").read_bytes())
    before = index_of(name)
    assert again["tensors"] == before["tensors"]
    assert again["topology"] == before["topology"]
    if before["provenance"]["tool"] == f"ckptfmt {VERSION}":
        for file in sorted(os.listdir(FOLDER / name)):
            assert (tmp_path / name / file).read_bytes() == (FOLDER / name / file).read_bytes()
