"""The children of tests/npu, with GPUs of the fake CUDA instead of NPUs."""

from __future__ import annotations

import pytest

from tests.helpers import cuda_fake
from tests.helpers.simulator import BuildError
from tests.npu.conftest import checkpoints, children

__all__ = ["checkpoints", "children", "runtime"]


@pytest.fixture(scope="session")
def runtime() -> None:
    """Skip where there is no torch, or nothing to build the runtime with."""
    pytest.importorskip("torch", reason="needs torch")
    try:
        cuda_fake.build()
    except BuildError as error:
        if "compiler" in str(error).splitlines()[0] and "no C" in str(error):
            pytest.skip(str(error))
        raise
