"""One server for all tests, emptied before each; the clients look for their hubs there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from ckptfmt import retrying
from tests.helpers.models import random_tensor, write_folder
from tests.helpers.telling import folder_digests
from tests.hub.server import File, Hub

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
pytest.importorskip("modelscope_hub", reason="needs the extra [hub]")

SCHEMES = {"huggingface": "hf", "modelscope": "ms"}
#: Three shards of some 2 MB in partitions of 2 MiB, so that what is done can be told.
PARTITIONS = {"partition_size": 2 << 20}


@pytest.fixture(scope="session")
def server() -> Iterator[Hub]:
    with Hub({}) as hub:
        yield hub


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as hubs have it: three shards, an index, sidecars, and the same in other formats."""
    import torch

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


@dataclass
class Place:
    """A hub with one repository, and how to convert it."""

    kind: str
    hub: Hub
    folder: Path
    target: Path

    @property
    def address(self) -> str:
        return f"{SCHEMES[self.kind]}://org/model"

    def convert(self, **options: Any) -> ckptfmt.ConvertReport:
        return ckptfmt.convert(self.address, self.target, **{**PARTITIONS, **options})

    def failing(self, **options: Any) -> ckptfmt.CkptError:
        """Convert, which must fail and leave no target."""
        with pytest.raises(ckptfmt.CkptError) as caught:
            self.convert(**options)
        assert not self.target.exists()
        return caught.value

    def digests(self) -> dict[str, str]:
        return folder_digests(self.target)

    def replace(self, name: str, data: bytes, *, publish: str = "") -> None:
        """Another file in the repository, under its own hash or that of `publish`."""
        path = self.target.parent / f"other-{name.replace('/', '-')}"
        path.write_bytes(data)
        files = self.hub.repositories["org/model"]
        known = files[publish] if publish else None
        files[name] = File.of(path)
        if known is not None:
            files[name].sha256, files[name].git_sha1 = known.sha256, known.git_sha1


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
    monkeypatch.setattr(retrying, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        "modelscope_hub._download_control._DownloadControl.sleep", lambda self, seconds: None
    )
    point_clients(monkeypatch, hub, tmp_path)
    return Place(kind, hub, folder, tmp_path / "model.ckpt")


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    """What tells the clients where their hubs are, and where to keep things."""
    return {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": str(folder / "ms"),
        "MODELSCOPE_HOME": str(folder / "ms-home"), "HOME": str(folder),
        "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip


#: What would decide about the clients in place of the tests.
FOREIGN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "HF_HUB_OFFLINE")


def point_clients(monkeypatch: pytest.MonkeyPatch, hub: Hub, folder: Path) -> None:
    """In this process; some of it the clients read once, when they are imported."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(hub, folder).items():
        monkeypatch.setenv(name, value)
    import modelscope_hub
    from huggingface_hub import constants

    monkeypatch.setattr(modelscope_hub.config, "_default_config", None)
    for name, value in (
        ("ENDPOINT", hub.endpoint),
        ("HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", os.path.join(folder, "hf", "hub")),
        ("HF_TOKEN_PATH", os.path.join(folder, "hf", "token")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value)
