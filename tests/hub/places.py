"""A hub with one repository, how to convert it, and how the clients are told where it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from tests.helpers.telling import folder_digests
from tests.hub.server import File, Hub

SCHEMES = {"huggingface": "hf", "modelscope": "ms"}
#: Three shards of some 2 MB in partitions of 2 MiB, so that what is done can be told.
PARTITIONS = {"partition_size": 2 << 20}


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
