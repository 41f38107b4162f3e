"""Wrong checkpoints: each is refused by name, at a prompt and in Python, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt import ChecksumError, FormatError, NotFoundError, UnsupportedVersionError
from tests.helpers.handmade import edit_index, flip, snapshot, write_index
from tests.helpers.models import small_model, write_folder
from tests.helpers.refusals import refused, refused_at_the_prompt

PART = "part-00000.ckptfmt"


@pytest.fixture
def parts(tmp_path: Path, source: Path) -> Path:
    """A checkpoint of several partitions."""
    ckptfmt.convert(source, tmp_path / "parts.ckpt", partition_size="1100KiB")
    return tmp_path / "parts.ckpt"


# ---- what is wrong with the folder; each of these changes one ----


def _gone(path: Path) -> None:
    shutil.rmtree(path)


def _unfinished(path: Path) -> None:
    path.rename(f"{path}.partial")


def _a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("{}")


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _weights(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    torch.save(small_model(), path / "pytorch_model.bin")


def _no_partition(path: Path) -> None:
    (path / "part-00001.ckptfmt").unlink()


def _no_sums(path: Path) -> None:
    (path / "SHA256SUMS").unlink()


def _short(path: Path) -> None:
    os.truncate(path / PART, (path / PART).stat().st_size - 1)


def _emptied(path: Path) -> None:
    os.truncate(path / PART, 0)


def _long(path: Path) -> None:
    with (path / PART).open("ab") as stream:
        stream.write(b"x")


def _of_a_sibling(path: Path) -> None:
    write_folder(path.parent / "other", small_model(seed=50), shards=2)
    other = path.parent / "other.ckpt"
    ckptfmt.convert(path.parent / "other", other, partition_size="1100KiB")
    assert (other / PART).stat().st_size == (path / PART).stat().st_size
    shutil.copyfile(other / PART, path / PART)


def _in_each_others_place(path: Path) -> None:
    """Two partitions of one size: only the numbers in their headers tell them apart."""
    shutil.rmtree(path)
    model = {"a": torch.zeros(1 << 18), "b": torch.ones(1 << 18)}
    ckptfmt.convert(model, path, partition_size="1100KiB")
    (path / PART).rename(path / "x")
    (path / "part-00001.ckptfmt").rename(path / PART)
    (path / "x").rename(path / "part-00001.ckptfmt")


def _header_bit(path: Path) -> None:
    flip(path / PART, 20)


def _magic(path: Path) -> None:
    flip(path / PART, 3)


def _table_bit(path: Path) -> None:
    flip(path / PART, (path / PART).stat().st_size - 5)


def _index_bit(path: Path) -> None:
    flip(path / "ckptfmt.json", 300)


def _sums_bit(path: Path) -> None:
    sums = (path / "SHA256SUMS").read_text()
    flip(path / "SHA256SUMS", sums.index("  ckptfmt.json") - 3)


FOLDERS: dict[str, tuple[Callable[[Path], None], type[ckptfmt.CkptError], str, str]] = {
    "missing": (_gone, NotFoundError, "no such checkpoint", ""),
    "unfinished": (_unfinished, NotFoundError, "no such checkpoint", "convert --resume"),
    "a file": (_a_file, FormatError, "not a folder", ""),
    "an empty folder": (_empty, FormatError, "not a ckptfmt checkpoint: no ckptfmt.json", ""),
    "a folder of weights": (_weights, FormatError, "not a ckptfmt checkpoint", "ckptfmt convert"),
    "no partition": (_no_partition, NotFoundError, "part-00001.*is missing", "verify lists"),
    "no list of sums": (_no_sums, NotFoundError, "SHA256SUMS.*is missing", "copy"),
    "short partition": (_short, FormatError, f"{PART}: .* bytes, the index says", "cut short"),
    "empty partition": (_emptied, FormatError, f"{PART}: 0 bytes, the index says", "cut short"),
    "long partition": (_long, FormatError, f"{PART}: .* bytes, the index says", "another"),
    "of a sibling": (_of_a_sibling, FormatError, f"{PART}: belongs to checkpoint", "mixed"),
    "swapped": (_in_each_others_place, FormatError, f"{PART}: the header is .*number=1", ""),
    "header bit": (_header_bit, FormatError, f"{PART}: .*header", ""),
    "magic": (_magic, FormatError, f"{PART}: .*starts with", ""),
    "table bit": (_table_bit, FormatError, f"{PART}: .*table", ""),
    "index bit": (_index_bit, FormatError, "ckptfmt.json: its SHA-256 is", "damaged or was edited"),
    "sums bit": (_sums_bit, FormatError, "ckptfmt.json: its SHA-256 is", "damaged or was edited"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_wrong_folder_is_refused(what: str, parts: Path) -> None:
    damage, kind, message, hint = FOLDERS[what]
    damage(parts)
    before = snapshot(parts) if parts.is_dir() else None
    refused(kind, message, lambda: ckptfmt.open(parts), hint)
    refused(kind, message, lambda: ckptfmt.load(parts), hint)
    for command in ("load", "inspect"):
        assert hint in refused_at_the_prompt([command, parts], message)
    target = parts.parent / "out"
    refused_at_the_prompt(["export", parts, target], message)
    assert not target.exists()
    assert before is None or snapshot(parts) == before


@pytest.mark.parametrize(
    "what", ["missing", "unfinished", "a file", "an empty folder", "a folder of weights"]
)
def test_what_is_no_checkpoint_cannot_be_verified(what: str, parts: Path) -> None:
    damage, kind, message, hint = FOLDERS[what]
    damage(parts)
    refused(kind, message, lambda: ckptfmt.verify(parts), hint)
    refused_at_the_prompt(["verify", parts], message)


@pytest.mark.parametrize("what", [
    "no partition", "short partition", "empty partition", "long partition", "of a sibling",
    "swapped", "header bit", "magic", "table bit", "index bit", "sums bit",
])  # fmt: skip
def test_damage_is_reported_by_verify(what: str, parts: Path) -> None:
    FOLDERS[what][0](parts)
    report = ckptfmt.verify(parts)
    assert not report.ok
    file = {"no partition": "part-00001.ckptfmt", "index bit": "ckptfmt.json",
            "sums bit": "ckptfmt.json"}.get(what, PART)  # fmt: skip
    assert file in {problem.file for problem in report.problems}


# ---- what is wrong with the index ----


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda index: index.__setitem__(key, value)


def _tensor(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["tensors"][0].__setitem__(key, value)


def _partition(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["partitions"][0].__setitem__(key, value)


INDEXES = {
    "newer": (_set("version", [2, 0]), UnsupportedVersionError, r"needs format 2\.0"),
    "feature": (_set("requires", ["ranks"]), UnsupportedVersionError, "needs the feature 'ranks'"),
    "older": (_set("version", [0, 9]), FormatError, r"format 0\.9 does not exist"),
    "another format": (_set("format", "other"), FormatError, "format is 'other'"),
    "up and out": (_partition("file", "../x.ckptfmt"), FormatError, r"partition 0 is '\.\./x"),
    "absolute": (_partition("file", "/etc/passwd"), FormatError, "partition 0 is '/etc/passwd'"),
    "a sidecar": (_partition("file", "config.json"), FormatError, "partition 0 is 'config.json'"),
    "payload": (_partition("payload_nbytes", 4096), FormatError, "payload"),
    "no names": (_tensor("names", []), FormatError, "has no name"),
    "a name twice": (_tensor("names", ["a", "a"]), FormatError, "the tensor name 'a' stands twice"),
    "dtype": (_tensor("dtype", "F7"), FormatError, "has the dtype 'F7'"),
    "shape": (_tensor("shape", [-1]), FormatError, "shape"),
    "size": (_tensor("shape", [3]), FormatError, "needs"),
    "extent": (_tensor("extents", [[0, 0, 616]]), FormatError, "expected bytes from 4096 on"),
    "id": (_set("id", "Z" * 32), FormatError, "32 lower-case hex digits"),
    "alignment": (_set("alignment", 4097), FormatError, "alignment is 4097"),
    "types": (_set("tensors", 5), FormatError, "not an index"),
    "a field less": (lambda index: index.pop("tensors"), FormatError, "not an index"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_a_wrong_index_is_refused(what: str, parts: Path) -> None:
    change, kind, message = INDEXES[what]
    edit_index(parts, change)
    hint = "pip install --upgrade" if kind is UnsupportedVersionError else ""
    refused(kind, f"ckptfmt.json: .*{message}", lambda: ckptfmt.load(parts), hint)
    refused_at_the_prompt(["load", parts], message)
    report = ckptfmt.verify(parts)
    assert [p.file for p in report.problems][:1] == ["ckptfmt.json"]


TEXTS = {
    "nothing": b"", "no JSON": b"{", "no object": b"[]", "no text": b"\xff\xfe{}",
    "deep": b"[" * 100_000, "half": None,
    "twice": b'{"format": "ckptfmt", "format": "ckptfmt"}',
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
def test_an_index_that_is_none_is_refused(what: str, parts: Path) -> None:
    text = TEXTS[what]
    if text is None:
        whole = (parts / "ckptfmt.json").read_bytes()
        text = whole[: len(whole) // 2]
    write_index(parts, text)
    refused(FormatError, "ckptfmt.json: ", lambda: ckptfmt.open(parts))
    refused_at_the_prompt(["inspect", parts], "ckptfmt.json: ")


def test_a_newer_minor_version_is_read(parts: Path, model: dict[str, torch.Tensor]) -> None:
    def change(index: dict[str, Any]) -> None:
        index["version"] = [1, 9]
        index["something new"] = {"a": 1}

    edit_index(parts, change)
    assert ckptfmt.load(parts).keys() == model.keys()


def test_a_newer_index_of_other_types_is_still_called_newer(parts: Path) -> None:
    write_index(parts, json.dumps({"format": "ckptfmt", "version": [7, 1], "tensors": 3}).encode())
    refused(UnsupportedVersionError, r"needs format 7\.1", lambda: ckptfmt.open(parts), "upgrade")


# ---- what is wrong with a tensor's bytes ----

WAYS = {
    "load": lambda c: c.load(),
    "direct": lambda c: c.load(options=ckptfmt.LoadOptions(reads="direct")),
    "buffered": lambda c: c.load(options=ckptfmt.LoadOptions(reads="buffered", threads=1)),
    "mmap": lambda c: c.load(mmap=True, verify=True),
    "cast": lambda c: c.load(dtype="fp16"),
    "item": lambda c: c["layers.0.attn.weight"],
    "read": lambda c: c.read("layers.0.attn.weight"),
    "stream": lambda c: list(c.stream()),
    "load_into": lambda c: c.load_into(small_model(seed=7)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_bit_is_named_by_tensor_partition_and_offset(way: str, checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        extent = opened.info("layers.0.attn.weight").extents[0]
        at = extent.offset + (1 << 20) + 77
        flip(checkpoint / PART, at, bit=6)
        error = refused(
            ChecksumError, f"{PART}: tensor 'layers.0.attn.weight', bytes ",
            lambda: WAYS[way](opened), "ckptfmt verify lists all damage" if way != "read" else "",
        )  # fmt: skip
        assert isinstance(error, ChecksumError)
        assert error.tensor == "layers.0.attn.weight"
        assert error.partition == str(checkpoint / PART)
        assert error.offset <= at < error.offset + error.nbytes
        assert error.offset == extent.offset + (1 << 20)
        # Everything else is still to be had, and unverified reads were asked for.
        assert len(opened.load("layers.1.*")) == 2
        assert len(opened.load(verify=False)) == 7
        assert len(opened.load(mmap=True)) == 7


def test_a_flipped_bit_at_the_prompt(tmp_path: Path, checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        at = opened.info("embed.weight").extents[0].offset
    flip(checkpoint / PART, at)
    line = refused_at_the_prompt(["load", checkpoint], "tensor 'embed.weight'")
    assert f"bytes {at}..{at + 600_000} of the file" in line
    refused_at_the_prompt(["export", checkpoint, tmp_path / "out"], "tensor 'embed.weight'")
    refused_at_the_prompt(["convert", checkpoint, tmp_path / "out"], "tensor 'embed.weight'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.ckpt", "source"]


def test_flipped_padding_is_found_by_verify_only(checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        extent = opened.info("layers.0.norm").extents[0]
    flip(checkpoint / PART, extent.offset + extent.nbytes)
    assert len(ckptfmt.load(checkpoint)) == 7
    (problem,) = ckptfmt.verify(checkpoint).problems
    assert "padding" in problem.message
