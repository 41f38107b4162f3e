"""torch's zip archives: what one may try before its pickle is looked at."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.refusals import refused


def saved(folder: Path) -> Path:
    torch.save({"x": torch.ones(5), "y": torch.ones(7)}, folder / "m.bin")
    return folder / "m.bin"


def test_a_packed_pickle_is_refused_before_it_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path)
    with zipfile.ZipFile(source) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data + bytes(50_000) if name.endswith(".pkl") else data)
    monkeypatch.setattr("ckptfmt.sources.torch_zip.MAX_INDEX_NBYTES", 40_000)
    monkeypatch.setattr(torch, "load", None)
    refused(
        ckptfmt.SourceError, "is packed, as torch never does: a zip bomb",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path)
    data = bytearray(source.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 42 : at + 46] = struct.pack("<I", 0)
    source.write_bytes(data)
    refused(
        ckptfmt.SourceError, "overlaps what follows it in the archive",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


def test_members_are_counted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path)
    monkeypatch.setattr("ckptfmt.sources.limits.MAX_TENSORS", 3)
    refused(
        ckptfmt.SourceError, "lists [0-9]+ tensors, at most 3",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip
