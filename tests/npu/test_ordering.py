"""Loads and torch's operators keep their order, whatever stream, queue or thread they come from."""

from __future__ import annotations

import pytest

from tests.helpers.npu_cases import Case, Place, case
from tests.npu.conftest import Children
from tests.npu.matrix import place

#: Each strategy that orders in its own way, with each kind of torch's queue: an event, waiting, RC.
PLACES = {
    "A": [place("9.1.0", "EP", 0), place("8.5.0", "EP", 1), place("9.1.0", "EP", 2)],
    "C": [place("8.0.0", "EP", 0), place("7.0.0", "EP", 1), place("8.0.0", "EP", 2)],
    "D": [place("7.0.0", "EP", 1), place("8.0.0", "EP", 2)],
    "E": [place("7.0.0", "RC", 0), place("8.0.0", "RC", 1), place("7.0.0", "RC", 2)],
}
SCENARIOS = [
    "memory_reused", "user_stream", "other_thread", "filled_in_place", "read_before_filled",
    "streamed", "used_at_once", "slots_are_not_filled_early",
]  # fmt: skip
#: Those that can see it when nothing is waited for.
SEEING = SCENARIOS[:5]


def each(names: list[str], letters: str = "ACDE") -> list[tuple[Place, Case]]:
    return [
        (where, case(f"ordering.{name}", staging=letter))
        for letter in letters
        for where in PLACES[letter]
        for name in names
    ]


RIGHT = each(SCENARIOS)
RIGHT += [
    (where, case("ordering.many_times", staging=letter, count=100 if where.queue == 1 else 20))
    for letter, places in PLACES.items()
    for where in places
]
HUNDRED = [
    (where, case("ordering.many_times", staging=letter, count=100))
    for letter, places in PLACES.items()
    for where in places
    if where.queue != 1
]
RIGHT += [
    (where, case("ordering.memory_reused", staging="A", sync_copy=True)) for where in PLACES["A"]
]
WRONG = [
    (where, case("ordering.goes_wrong_without_waiting", scenario=name, staging=letter))
    for letter, places in PLACES.items()
    for where in places
    for name in SEEING
]


@pytest.mark.parametrize(("place", "case"), RIGHT, ids=[f"{p} {c}" for p, c in RIGHT])
def test_the_order_is_kept(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "case"), HUNDRED, ids=[f"{p} {c}" for p, c in HUNDRED])
def test_a_hundred_times(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.parametrize(("place", "case"), WRONG, ids=[f"{p} {c}" for p, c in WRONG])
def test_these_tests_can_fail(place: Place, case: Case, children: Children) -> None:
    """With the loader's waiting taken out, each of them meets wrong bytes."""
    children.check(place, case)
