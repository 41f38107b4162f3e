"""The entry point for vLLM: what it does where there is none, an old one, a broken one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ckptfmt.vllm
from tests.helpers.children import run_child


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Stand-ins for a vLLM that takes loaders; what registering does to them is undone."""
    made = {}
    for name in (
        "vllm", "vllm.model_executor", "vllm.model_executor.model_loader",
        "vllm.model_executor.model_loader.base_loader", "vllm.model_executor.layers",
    ):  # fmt: skip
        made[name] = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made[name])
    made["vllm"].__version__ = "9.9.9"
    registered: list[tuple[str, type]] = []

    def register_model_loader(load_format: str) -> Any:
        return lambda loader: registered.append((load_format, loader))

    made["vllm.model_executor.model_loader"].register_model_loader = register_model_loader
    made["vllm.model_executor.model_loader"].registered = registered
    made["vllm.model_executor.model_loader.base_loader"].BaseModelLoader = object
    for part in ("linear", "vocab_parallel_embedding"):
        layer = ModuleType(part)
        monkeypatch.setitem(sys.modules, f"vllm.model_executor.layers.{part}", layer)
        setattr(made["vllm.model_executor.layers"], part, layer)
    for name in ("loader", "by_name", "shares"):
        monkeypatch.delitem(sys.modules, f"ckptfmt.vllm.{name}", raising=False)
        monkeypatch.delattr(ckptfmt.vllm, name, raising=False)
    return made


def test_it_is_an_entry_point() -> None:
    """By what is built from; ``tests/vllm`` has vLLM find it."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    group = '[project.entry-points."vllm.general_plugins"]\nckptfmt = "ckptfmt.vllm:register"\n'
    assert group in text
    assert callable(ckptfmt.vllm.register)


def test_without_vllm_it_says_so_and_imports_nothing() -> None:
    child = run_child(
        "import logging, sys\n"
        "logging.basicConfig(format='%(name)s %(levelname)s %(message)s')\n"
        "sys.modules['vllm'] = None  # importing it fails\n"
        "from ckptfmt.vllm import register\n"
        "register()\n"
        "register()\n"
        "print(sorted({'torch', 'numpy', 'ckptfmt.checkpoint'} & set(sys.modules)))"
    )
    assert child.stdout == "[]\n"
    line = "vllm.ckptfmt WARNING load_format=ckptfmt is for vLLM, which cannot be imported: "
    assert [found.startswith(line) for found in child.stderr.splitlines()] == [True, True]


def test_an_old_vllm_is_told_which_is_new_enough(
    modules: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    modules["vllm"].__version__ = "0.9.2"
    del modules["vllm.model_executor.model_loader"].register_model_loader
    ckptfmt.vllm.register()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "load_format=ckptfmt needs vLLM 0.10.0 or newer, which takes load formats of other "
        "packages; this is vLLM 0.9.2: "
    )


@pytest.mark.parametrize("error", [RuntimeError("half installed"), OSError("libfoo.so: gone")])
def test_a_broken_vllm_is_logged_and_left_alone(
    error: BaseException, modules: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch", reason="needs torch")

    def fail(load_format: str) -> None:
        raise error

    modules["vllm.model_executor.model_loader"].register_model_loader = fail
    ckptfmt.vllm.register()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_registering_again_changes_nothing(
    modules: dict[str, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch", reason="needs torch")
    ckptfmt.vllm.register()
    ckptfmt.vllm.register()
    ((load_format, loader),) = modules["vllm.model_executor.model_loader"].registered
    assert load_format == "ckptfmt"
    assert loader.__name__ == "CkptfmtLoader"
    assert caplog.records == []
