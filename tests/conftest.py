"""Fixtures only; what tests import is in ``tests/helpers``.

torch is imported where it is used: ``tests/unit`` and ``tests/native`` run without it, too.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import ckptfmt

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import torch
    from xdist.remote import Producer

    from tests.helpers.side_by_side import SideBySide


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where there is no torch, a module that imports it is skipped, and the summary says so."""
    report = yield
    if report.failed and find_spec("torch") is None and "'torch'" in report.longreprtext:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, "Skipped: needs torch")
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SideBySide | None:
    """How ``-n`` with ``--dist loadfile`` gives tests to processes."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.helpers.side_by_side import SideBySide

    return SideBySide(config, log)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests decides about them."""
    names = (
        "IO", "READS", "THREADS", "DEPTH", "OP_NBYTES", "TRACEBACK", "NPU_STAGING", "POOL_NBYTES",
        "SYNC_COPY", "ACL_LIBRARY",
    )  # fmt: skip
    for name in names:
        monkeypatch.delenv(f"CKPTFMT_{name}", raising=False)


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    """Tensors of a small model."""
    pytest.importorskip("torch", reason="needs torch")
    from tests.helpers.models import small_model

    return small_model()


@pytest.fixture
def source(tmp_path: Path, model: dict[str, torch.Tensor]) -> Path:
    """A Hugging Face folder of `model` in two shards."""
    from tests.helpers.models import write_folder

    return write_folder(tmp_path / "source", model, shards=2)


@pytest.fixture
def checkpoint(tmp_path: Path, source: Path) -> Path:
    """`source`, converted."""
    target = tmp_path / "model.ckpt"
    ckptfmt.convert(source, target)
    return target
