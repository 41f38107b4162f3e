"""A bench for the engine in each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.engines import Bench


@pytest.fixture
def make_bench() -> Iterator[Callable[[int], Bench]]:
    """Benches with memory of the size asked for; their files are closed afterwards."""
    made: list[Bench] = []

    def make(nbytes: int) -> Bench:
        made.append(Bench(nbytes))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
