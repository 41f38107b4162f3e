"""What each format needs: no torch where none is used; a package that is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptfmt
from tests.helpers.children import run_child
from tests.helpers.formats import write_dcp, write_gguf
from tests.helpers.refusals import refused

HERE = Path(__file__).parent


def test_without_torch(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", x=np.ones((3, 4), np.float32))
    sources = [
        HERE / "sllm_store" / "store", HERE / "mindspore" / "plain.ckpt", tmp_path / "model.npz",
        write_gguf(tmp_path, {"x": torch.ones(3)}),
    ]  # fmt: skip
    child = run_child(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import ckptfmt\n"
        "for number, source in enumerate(sys.argv[2:]):\n"
        "    target = f'{sys.argv[1]}/{number}.ckpt'\n"
        "    ckptfmt.convert(source, target)\n"
        "    assert ckptfmt.verify(target, against=source).ok\n"
        "ckptfmt.export(f'{sys.argv[1]}/0.ckpt', f'{sys.argv[1]}/out', to='sllm')\n"
        "print(number)",
        tmp_path, *sources,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout == "3\n"


def test_a_missing_gguf_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path, {"x": torch.ones(3)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(
        ckptfmt.MissingDependencyError, "gguf cannot be imported",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "pip install gguf",
    )  # fmt: skip


def test_a_torch_that_would_run_pickles_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_dcp(tmp_path, {"x": torch.ones(3)})
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    refused(
        ckptfmt.MissingDependencyError, r"torch 2\.5\.1\+cpu loads pieces .* as full pickles",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), r"torch>=2\.6",
    )  # fmt: skip
