"""Models, made once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.running import DTYPES, KINDS, MISSING, forks, make_models


@pytest.fixture(scope="session", autouse=True)
def _vllm() -> None:
    """Without it there is nothing to test here."""
    if MISSING:
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def models(_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind in each dtype, twice."""
    folder = tmp_path_factory.mktemp("models")
    make_models(folder, [(k, d, seed) for k in KINDS for d in DTYPES for seed in (1, 2)])
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where vLLM remembers what it found out about classes of models, and runs leave their logs."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "runs").mkdir()
    yield folder
    if forks.cache_info().currsize:
        forks(folder).close()
