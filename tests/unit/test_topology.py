"""Ranks in the index: what is written, what is refused, and that others are as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ckptfmt import index
from ckptfmt.errors import UnsupportedVersionError
from ckptfmt.index import Index
from ckptfmt.topology import Cut, Piece, piece_of, positions_of
from tests.helpers.indexes import (
    Fields,
    check,
    decode,
    plain,
    put,
    ranked_index,
    refused,
    small_index,
)


def changed(change: Callable[[Fields], object], made: Index | None = None) -> Fields:
    fields = plain(made or ranked_index())
    assert decode(fields)
    change(fields)
    return fields


@pytest.mark.parametrize("kind", ["cut", "state"])
def test_an_index_of_ranks_comes_back_as_it_was(kind: Any) -> None:
    made = ranked_index(kind)
    text = index.encode(made)
    assert index.decode(text, "again") == made
    check(made)
    fields = json.loads(text)
    assert fields["requires"] == ["rank-partitions"]
    assert fields["topology"] == {
        "kind": kind, "tensor_parallel": 2, "layout": {"engine": "x 1.2"},
    }  # fmt: skip
    assert [t.get("rank") for t in fields["tensors"]] == [t.rank for t in made.tensors]


def test_an_index_without_ranks_says_nothing_of_them() -> None:
    text = index.encode(small_index()).decode()
    assert not any(word in text for word in ("rank", "cut", "topology"))
    assert list(json.loads(text)) == [
        "format", "version", "requires", "id", "alignment", "block_nbytes", "partitions", "tensors",
        "metadata", "provenance",
    ]  # fmt: skip


def test_a_reader_that_does_not_know_ranks_names_the_feature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "KNOWN_FEATURES", frozenset())
    with pytest.raises(UnsupportedVersionError, match="needs the feature 'rank-partitions'"):
        decode(plain(ranked_index()))


def test_each_partition_is_of_one_rank_or_of_none() -> None:
    made = ranked_index()
    owners = [
        {t.rank for t in made.tensors for e in t.extents if e.partition == number}
        for number in range(len(made.partitions))
    ]
    assert owners == [{None}, {0}, {0}, {1}, {1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("requires", value=[]), "does not require 'rank-partitions'"),
        (lambda f: f.pop("topology"), "requires 'rank-partitions' and has no topology"),
        (put("topology", value=None), "requires 'rank-partitions' and has no topology"),
        (put("topology", "kind", value="both"), "not an index: "),
        (put("topology", "tensor_parallel", value=0), "0 ranks, expected 1 to 65536"),
        (put("topology", "tensor_parallel", value=65537), "65537 ranks"),
        (put("topology", "tensor_parallel", value=1), "'embed' is of rank 1, of 1 in order"),
        (put("topology", "tensor_parallel", value=3), "rank 2 has pieces of other tensors"),
        (put("topology", "layout", value={"a": 1}), "not an index: "),
        (put("topology", "kind", value="state"), "of rank 0 is cut, in a checkpoint of kind 'sta"),
        (put("tensors", 0, "rank", value=0), "of rank 0 is not cut, in a checkpoint of kind 'cut'"),
        (put("tensors", 2, "rank", value=1), "'gate_up' is of rank 0, of 2 in order"),
        (put("tensors", 7, "rank", value=-1), "not an index: "),
        (put("tensors", 5, "names", value=["embed"]), "rank 1 has pieces of other tensors"),
        (put("tensors", 6, "shape", value=[2, 5]), "rank 1 has pieces of other tensors"),
        (put("tensors", 7, "cut", "dim", value=1), "rank 1 has pieces of other tensors"),
        (lambda f: f["tensors"].pop(), "rank 1 has pieces of other tensors"),
    ],
)
def test_ranks_that_contradict_each_other_are_refused(
    change: Callable[[Fields], object], message: str
) -> None:
    refused(changed(change), message)


@pytest.mark.parametrize("name", ["norm", "also", "w"])
def test_a_rank_has_a_name_once(name: str) -> None:
    """Neither twice of its own, nor one that all share."""
    change = put("tensors", 4, "names", value=["mine", name])
    refused(changed(change, ranked_index("state")), f"{name!r} stands twice for a rank")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"dim": 2, "blocks": [8]}, "of the shape \\[4, 3\\] cannot be a piece"),
        ({"dim": 0, "blocks": []}, "its blocks  make 0"),
        ({"dim": 0, "blocks": [8, 0]}, "cannot be a piece"),
        ({"dim": 0, "blocks": [6]}, "are 2 times 4, its blocks 6 make 6"),
        ({"dim": 0, "blocks": [5, 3]}, "dimension 0 is 5 \\+ 3, not a multiple of 2"),
        ({"dim": 0}, "not an index: "),
        ({"dim": -1, "blocks": [8]}, "not an index: "),
    ],
)
def test_cuts_that_give_no_whole_are_refused(cut: Fields, message: str) -> None:
    def change(fields: Fields) -> None:
        fields["tensors"][2]["cut"] = fields["tensors"][5]["cut"] = cut

    refused(changed(change), message)


def test_ranks_without_a_topology_are_refused() -> None:
    for key, value in (("rank", 0), ("cut", {"dim": 0, "blocks": [3]})):
        fields = plain(small_index())
        fields["tensors"][0][key] = value
        refused(fields, "'embed' has a rank, without a topology")


def test_a_partition_of_two_ranks_is_refused() -> None:
    fields = plain(ranked_index("state"))
    first, second, third = fields["tensors"][2:]
    assert [t["rank"] for t in (first, second, third)] == [0, 1, 1]
    second["rank"] = 0
    second["names"] = ["other"]
    refused(fields, "'mine' of rank 1 is in part-00002.ckptfmt, which is of rank 0")


@pytest.mark.parametrize(
    ("cut", "ranks", "expected"),
    [
        (Cut(0, (8,)), 2, [[(0, 4)], [(4, 8)]]),
        (Cut(1, (4, 2, 2)), 2, [[(0, 2), (4, 5), (6, 7)], [(2, 4), (5, 6), (7, 8)]]),
        (Cut(0, (6,)), 3, [[(0, 2)], [(2, 4)], [(4, 6)]]),
    ],
)
def test_a_rank_has_the_same_share_of_each_block(cut: Cut, ranks: int, expected: Any) -> None:
    assert [list(cut.ranges(ranks, rank)) for rank in range(ranks)] == expected


@pytest.mark.parametrize(
    ("cut", "dtype", "shape", "ranks", "why"),
    [
        (Cut(0, (8,)), "F32", (8, 3), 4, ""),
        (Cut(0, (8,)), "F32", (8, 3), 3, "dimension 0 is 8, not a multiple of 3"),
        (Cut(1, (8,)), "F4", (3, 8), 4, ""),
        (Cut(1, (4,)), "F4", (3, 4), 4, "a share of dimension 1 would not be whole bytes"),
        (Cut(0, (4,)), "F6_E2M3", (4, 2), 2, ""),
        (Cut(0, (4,)), "F6_E2M3", (4, 2), 4, "a share of dimension 0 would not be whole bytes"),
    ],
)
def test_what_cannot_be_cut_says_why(
    cut: Cut, dtype: str, shape: tuple[int, ...], ranks: int, why: str
) -> None:
    assert cut.why_not(dtype, shape, ranks) == why


def test_a_piece_tells_where_it_is_in_the_whole() -> None:
    made = ranked_index()
    found = {rank: positions_of(made.tensors, rank) for rank in range(2)}
    assert set(found[0]) == {"norm", "empty", "also", "embed", "head", "gate_up", "large"}
    pieces = [piece_of(made.tensors[found[rank]["head"]], 2) for rank in range(2)]
    assert pieces == [Piece(0, 0, 4, (8, 3)), Piece(0, 4, 8, (8, 3))]
    assert piece_of(made.tensors[found[0]["gate_up"]], 2) is None  # two ranges
    assert piece_of(made.tensors[found[0]["norm"]], 2) is None  # all of it
