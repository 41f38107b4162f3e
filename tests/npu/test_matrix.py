"""Tensors are equal bit for bit, through ``t.cpu()``, in every way that they can be loaded."""

from __future__ import annotations

import pytest

from tests.helpers.npu_cases import Case, Place, case
from tests.npu.conftest import Children
from tests.npu.matrix import EP, RC, case_of, full, place_of, small

SMALL = [(place_of(row), case_of(row)) for row in small()]
#: What the small choice has is not run twice.
REST = [pair for row in full() if (pair := (place_of(row), case_of(row))) not in set(SMALL)]


def ids(pairs: list[tuple[Place, Case]]) -> list[str]:
    return [f"{place} {one}" for place, one in pairs]


@pytest.mark.parametrize(("place", "case"), SMALL, ids=ids(SMALL))
def test_pairwise(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "case"), REST, ids=ids(REST))
def test_full(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


CHOICES = [
    # Where, what is chosen, what was refused before that, all that can be had.
    (EP["7.0.0"], "C", ["A", "B"], "CD"),
    (EP["8.0.0"], "C", ["A", "B"], "CD"),
    (EP["8.1.RC1"], "B", ["A"], "BCD"),
    (EP["8.3.RC1"], "B", ["A"], "BCD"),
    (EP["8.5.0"], "A", [], "ABCD"),
    (EP["9.1.0"], "A", [], "ABCD"),
    (Place("8.5.0", 1, (("soc", "Ascend310P3"),)), "C", ["A", "B"], "CD"),
    (RC["8.0.0"], "E", [], "E"),
]
CHOSEN = [
    (where, one)
    for where, letter, refused, letters in CHOICES
    for one in (
        case("loading.chosen", letter=letter, refused=tuple(refused)),
        case("loading.admitted", letters=letters),
    )
]


@pytest.mark.parametrize(("place", "case"), CHOSEN, ids=ids(CHOSEN))
def test_strategies(place: Place, case: Case, children: Children) -> None:
    """Which are tried, and which is taken."""
    children.check(place, case)


EXPANDABLE = Place("8.5.0", 1, variables=(("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True"),))
OTHERS = [
    *((EXPANDABLE, case("loading.equal", model=model, two=True, io="io_uring", reads="direct",
                        staging="A", sync_copy=False)) for model in ("mixed", "large")),
    *((EP["8.5.0"], case("loading.named_by_the_environment", letter=letter)) for letter in "ABCD"),
    (RC["8.0.0"], case("loading.named_by_the_environment", letter="E")),
    (EP["8.5.0"], case("loading.refused", letter="E", because="EP mode")),
    (EP["8.0.0"], case("loading.refused", letter="A", because="aclrtHostRegisterV2")),
    (EP["8.0.0"], case("loading.refused", letter="B", because="aclrtHostRegister")),
    (EP["8.5.0"], case("loading.some", names=("layers.[12].*",))),
    (EP["8.5.0"], case("loading.sixteen_at_once", model="large")),
]


@pytest.mark.parametrize(("place", "case"), OTHERS, ids=ids(OTHERS))
def test_ways_to_ask(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)
