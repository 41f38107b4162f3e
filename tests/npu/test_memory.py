"""Host memory of a load: the pool and little more, whatever the size of the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptfmt
from tests.helpers.npu_cases import Place, case, run_cases

MiB = 1 << 20
MODEL_NBYTES = 512 * MiB
POOL_NBYTES = 64 * MiB
#: Beside the pool: plans, Python, torch.
MORE_NBYTES = 64 * MiB


@pytest.fixture(scope="module")
def model(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """512 MiB in tensors of 16 MiB."""
    import torch

    base = torch.randint(0, 256, (16 * MiB,), dtype=torch.uint8)
    folder = tmp_path_factory.mktemp("large")
    tensors = {f"layers.{i}.weight": base + i for i in range(MODEL_NBYTES // len(base))}
    ckptfmt.convert(tensors, folder / "model")
    yield folder / "model"
    shutil.rmtree(folder)


BOTH = (("", "npu:0"), *((f"layers.{i}", "npu:1") for i in range(1, 32, 2)))


@pytest.mark.parametrize("staging", ["A", "C", "D"])
def test_host_memory_is_the_pool_and_little_more(
    staging: str, model: Path, checkpoints: Path
) -> None:
    """The simulated devices' memory is that of memfds, so that it can be told from the load's."""
    place = Place("8.5.0", 1, (("devices", 2), ("memory", "2G"), ("backing", "memfd")))
    one = case("memory.within", path=str(model), staging=staging, pool_nbytes=POOL_NBYTES,
               bound=POOL_NBYTES + MORE_NBYTES)  # fmt: skip
    two = case("memory.within", path=str(model), staging=staging, pool_nbytes=POOL_NBYTES,
               bound=2 * POOL_NBYTES + MORE_NBYTES, device=BOTH)  # fmt: skip
    problems = run_cases(place, [one, two], checkpoints).values()
    assert not any(problems), "\n".join(problems)


def test_a_board_takes_the_model_and_little_more(model: Path, checkpoints: Path) -> None:
    """There the device's memory is the host's."""
    place = Place("8.0.0", 1, (("soc", "Ascend310B4"), ("memory", "2G"), ("backing", "anonymous")))
    one = case("memory.within", path=str(model), staging="E", pool_nbytes=POOL_NBYTES,
               bound=MODEL_NBYTES + MORE_NBYTES)  # fmt: skip
    problems = run_cases(place, [one], checkpoints).values()
    assert not any(problems), "\n".join(problems)


@pytest.mark.parametrize("verify", [True, False])
def test_a_board_leaves_the_page_cache_as_it_was(
    verify: bool, model: Path, checkpoints: Path
) -> None:
    place = Place("8.0.0", 1, (("soc", "Ascend310B4"), ("memory", "2G")))
    one = case("memory.cache_is_left_as_it_was", path=str(model), verify=verify)
    assert run_cases(place, [one], checkpoints) == {one: ""}


def test_a_model_that_nearly_fills_the_device(tmp_path: Path, checkpoints: Path) -> None:
    import torch

    ckptfmt.convert({"x": torch.ones(60 * MiB, dtype=torch.uint8)}, tmp_path / "model")
    place = Place("8.5.0", 1, (("devices", 1), ("memory", "62M")))
    one = case("memory.nearly_all", path=str(tmp_path / "model"), spare=2 * MiB)
    assert run_cases(place, [one], checkpoints) == {one: ""}
