"""The small choice has every pair of the matrix, and the matrix every row that was promised."""

from __future__ import annotations

from collections.abc import Mapping

from tests.helpers.npu_cases import Place
from tests.helpers.pairwise import pairs_of, pairwise, possible_pairs
from tests.npu.matrix import (
    CHILDREN,
    FACTORS,
    full,
    is_in_few_children,
    is_possible,
    place_of,
    small,
    strategies,
)  # fmt: skip

TOY: dict[str, list[object]] = {"a": [1, 2, 3], "b": ["x", "y"], "c": [True, False], "d": [0, 1, 2]}


def no_3y(row: Mapping[str, object]) -> bool:
    return not (row.get("a") == 3 and row.get("b") == "y")


def test_every_pair_that_can_be_is_in_some_row() -> None:
    rows = pairwise(TOY, no_3y)
    found = {pair for row in rows for pair in pairs_of(row)}
    assert found == set(possible_pairs(TOY, no_3y))
    assert (("a", 3), ("b", "y")) not in found
    assert all(no_3y(row) for row in rows)
    assert len(rows) < 3 * 2 * 2 * 3 - 6


def test_what_cannot_be_completed_is_no_pair() -> None:
    """With b = y nothing goes that c has, so no pair with y can be wanted."""

    def allowed(row: Mapping[str, object]) -> bool:
        return not (row.get("b") == "y" and "c" in row)

    assert not [pair for pair in possible_pairs(TOY, allowed) if ("b", "y") in pair]
    assert pairwise(TOY, allowed)


def test_it_is_the_same_each_time() -> None:
    assert small() == small()


def test_the_small_choice_has_all_pairs_of_the_matrix() -> None:
    """Those of the few children are those of all children: none is lost by starting fewer."""
    found = {pair for row in small() for pair in pairs_of(row)}
    assert found == set(possible_pairs(FACTORS, is_in_few_children))
    assert found == set(possible_pairs(FACTORS, is_possible))


def test_the_small_choice_needs_few_children() -> None:
    rows = small()
    places: set[Place] = {place_of(row) for row in rows}
    assert len(places) <= len(CHILDREN)
    assert len(rows) <= 60


def test_the_full_matrix_has_every_strategy_that_a_version_admits() -> None:
    rows = full()
    assert all(is_possible(row) for row in rows)
    names = ("version", "mode", "queue", "staging", "io", "reads", "two")
    found = {tuple(row[name] for name in names) for row in rows}
    assert len(found) == len(rows)
    n_strategies = sum(len(strategies(v, m)) for v in FACTORS["version"] for m in ("EP", "RC"))  # type: ignore[arg-type]
    assert len(rows) == n_strategies * 3 * 2 * 2 * 2
    for rotated in ("model", "op_nbytes", "verify", "sync_copy"):
        for letter in "ABCDE":
            mine = {row[rotated] for row in rows if row["staging"] == letter}
            assert mine == set(FACTORS[rotated])
