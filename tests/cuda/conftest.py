"""The children of tests/npu, with GPUs of the fake CUDA instead of NPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import cuda_fake
from tests.helpers.simulator import BuildError
from tests.npu.conftest import Children, checkpoints, wanted

__all__ = ["checkpoints"]


@pytest.fixture(scope="session")
def runtime() -> None:
    """Skip where there is no torch, or nothing to build the runtime with."""
    pytest.importorskip("torch", reason="needs torch")
    try:
        cuda_fake.build()
    except BuildError as error:
        if str(error).startswith("no C"):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def children(request: pytest.FixtureRequest, checkpoints: Path) -> Iterator[Children]:
    """For tests with the parameters `place` and `case`."""
    running = Children(wanted(request, "cuda"), checkpoints)
    yield running
    running.close()
