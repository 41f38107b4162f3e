"""One server for all tests, emptied before each; the clients look for their hubs there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt import retrying
from tests.hub.places import SCHEMES, Place, point_clients
from tests.hub.server import File, Hub


@pytest.fixture(scope="session")
def server() -> Iterator[Hub]:
    with Hub({}) as hub:
        yield hub


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as hubs have it: three shards, an index, sidecars, and the same in other formats."""
    torch = pytest.importorskip("torch", reason="needs torch")
    from tests.helpers.models import random_tensor, write_folder

    tensors = {
        f"layers.{i}.{name}": random_tensor(shape, torch.bfloat16, seed=i)
        for i in range(6)
        for name, shape in (("weight", (499, 1021)), ("bias", (7,)))
    }
    path = write_folder(tmp_path_factory.mktemp("hub") / "model", tensors, shards=3)
    (path / "onnx").mkdir()
    for name in ("pytorch_model.bin", "model.gguf", "onnx/model.onnx", "tf_model.h5"):
        (path / name).write_bytes(b"the same in another format" * 1000)
    (path / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (path / "big.json").write_text("[" + "0," * 6000 + "0]\n")  # a sidecar in LFS
    return path


@pytest.fixture(scope="session")
def summed(folder: Path) -> dict[str, File]:
    return {
        str(path.relative_to(folder)): File.of(path)
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.fixture
def hub(server: Hub, summed: dict[str, File]) -> Hub:
    server.repositories = {"org/model": dict(summed)}
    server.token, server.rate = None, 0.0
    server.faults, server.requests, server.leaked, server.listed_too = [], [], [], []
    server.sent_nbytes = 0
    return server


@pytest.fixture(params=list(SCHEMES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(
    kind: str, hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """The client's caches below `tmp_path`, and no waiting between tries, theirs or ours."""
    for client in ("huggingface_hub", "modelscope_hub"):
        pytest.importorskip(client, reason="needs the extra [hub]")
    monkeypatch.setattr(retrying, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        "modelscope_hub._download_control._DownloadControl.sleep", lambda self, seconds: None
    )
    point_clients(monkeypatch, hub, tmp_path)
    return Place(kind, hub, folder, tmp_path / "model.ckpt")
