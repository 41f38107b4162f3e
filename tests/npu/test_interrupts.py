"""Ctrl-C in the middle of a load: nothing is in flight after it, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.helpers.npu_cases import Case, Place, case
from tests.npu.conftest import Children
from tests.npu.matrix import EP

WAYS = ["load", "progress", "two", "load_into", "stream"]
CASES = [
    *((EP["8.5.0"], case("interrupts.interrupted", way=way, staging="A")) for way in WAYS),
    *((EP["8.5.0"], case("interrupts.interrupted", way=way, staging="A", times=4))
      for way in ("load", "two", "stream")),
    *((EP["8.0.0"], case("interrupts.interrupted", way="load", staging=letter))
      for letter in "CD"),
    *((EP["8.5.0"], case("interrupts.stream_left", staging=letter)) for letter in "AC"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "case"), CASES, ids=[f"{p} {c}" for p, c in CASES])
def test_ctrl_c(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)
