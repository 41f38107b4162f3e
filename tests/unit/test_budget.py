"""What runs side by side stays within a budget; what can never run is refused, not kept waiting."""

from __future__ import annotations

import pytest

from ckptfmt.budget import Budget, Need

SMALL, LARGE = Need(10, 100), Need(60, 700)
ROOM = 1 << 40


@pytest.mark.parametrize(("need", "running", "admitted"), [
    (Need(100, 0), [], True), (Need(90, 0), [SMALL], True), (Need(91, 0), [SMALL], False),
    (LARGE, [SMALL] * 4, True), (LARGE, [SMALL] * 5, False),
])  # fmt: skip
def test_memory_is_shared(need: Need, running: list[Need], admitted: bool) -> None:
    budget = Budget(100)
    assert budget.refusal(need, running) == ""
    assert budget.admits(need, running, ROOM) == admitted


def test_disk_is_shared_with_what_was_written_before() -> None:
    budget = Budget(100, 1000)
    assert budget.admits(LARGE, [SMALL] * 3, ROOM)
    assert not budget.admits(LARGE, [SMALL] * 4, ROOM)
    budget.written_nbytes = 301
    assert not budget.admits(LARGE, [], ROOM)


def test_room_on_the_disk_counts_beside_others_only() -> None:
    budget = Budget(100)
    assert budget.admits(LARGE, [SMALL], 700)
    assert not budget.admits(LARGE, [SMALL], 699)
    assert budget.admits(LARGE, [], 699)  # the conversion itself tells what is missing


def test_what_can_never_begin_is_refused_with_both_numbers() -> None:
    budget = Budget(100, 1000, written_nbytes=500)
    assert budget.refusal(Need(101, 0), []) == "needs 101 B of memory, the budget is 100 B"
    assert budget.refusal(Need(1, 1001), []) == "needs 1.00 kB of disk, the budget is 1.00 kB"
    assert budget.refusal(Need(1, 501), []) == (
        "needs 501 B of disk, 500 B are left of the budget of 1.00 kB"
    )
    assert budget.refusal(Need(1, 501), [SMALL]) == ""  # it may fail, and leave its share
