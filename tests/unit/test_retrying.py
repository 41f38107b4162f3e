"""How often something is tried again, and after how long."""

from __future__ import annotations

import threading

import pytest

from ckptfmt import retrying
from ckptfmt.errors import HubError
from ckptfmt.retrying import Passing, refusal, retried


class Clock(threading.Event):
    """Notes for how long it would have been waited on; it never comes."""

    def __init__(self, *, comes: bool = False) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.comes = comes

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return self.comes


def failing(times: int, retry_after_s: float = 0.0) -> list[int]:
    """Something that fails so many times; calls it to death leave nothing to pop."""
    return [times, int(retry_after_s)]


def attempt(left: list[int]) -> str:
    left[0] -= 1
    if left[0] >= 0:
        raise Passing("the hub fails", left[1])
    return "done"


@pytest.mark.parametrize(("times", "waits"), [
    (0, []), (1, [1.0]), (2, [1.0, 2.0]), (4, [1.0, 2.0, 4.0, 8.0]),
])  # fmt: skip
def test_waits_grow(times: int, waits: list[float]) -> None:
    clock, left = Clock(), failing(times)
    assert retried(lambda: attempt(left), "hf://a/b: f", stopped=clock) == "done"
    assert clock.waits == waits


def test_a_hub_may_ask_for_more() -> None:
    clock, left = Clock(), failing(2, 30)
    assert retried(lambda: attempt(left), "hf://a/b: f", stopped=clock) == "done"
    assert clock.waits == [30.0, 30.0]


@pytest.mark.parametrize(("left", "clock", "message", "waits"), [
    (failing(99), Clock(), "hf://a/b: f: the hub fails (after 5 tries)", 4),
    (failing(99, 301), Clock(), "hf://a/b: f: the hub fails", 0),
    (failing(99), Clock(comes=True), "hf://a/b: f: the hub fails", 1),
])  # fmt: skip
def test_it_ends(left: list[int], clock: Clock, message: str, waits: int) -> None:
    with pytest.raises(HubError) as caught:
        retried(lambda: attempt(left), "hf://a/b: f", stopped=clock)
    assert str(caught.value) == message
    assert caught.value.file == "f"
    assert len(clock.waits) == waits


def test_what_the_client_tries_again_is_tried_once() -> None:
    left = failing(1)
    with pytest.raises(HubError, match="the hub fails"):
        retried(lambda: attempt(left), "hf://a/b", waits_s=())


@pytest.mark.parametrize("status", sorted(retrying.PASSING_STATUS))
def test_some_answers_pass(status: int) -> None:
    found = refusal("hf://a/b", status, "17", "log in")
    assert isinstance(found, Passing)
    assert found.retry_after_s == 17


@pytest.mark.parametrize("after", [None, "", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "-1"])
def test_a_wait_that_is_no_number_of_seconds_is_ours(after: str | None) -> None:
    found = refusal("hf://a/b", 429, after, "log in")
    assert isinstance(found, Passing)
    assert found.retry_after_s == 0


@pytest.mark.parametrize(("status", "message"), [
    (401, "no such repository, or none that may be read without a login"),
    (403, "this login may not read it"), (404, "answers with status 404"), (0, "status 0"),
])  # fmt: skip
def test_others_stay(status: int, message: str) -> None:
    found = refusal("hf://a/b: f", status, None, "log in")
    assert isinstance(found, HubError)
    assert message in str(found)
    assert (found.status, found.file) == (status, "f")
