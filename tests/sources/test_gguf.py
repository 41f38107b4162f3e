"""GGUF: quantized tensors, metadata, split files, and headers that lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ckptfmt
from tests.helpers.formats import read_gguf, write_gguf
from tests.helpers.models import random_tensor
from tests.helpers.refusals import refused, refused_at_the_prompt
from tests.sources.test_formats import converted, same

pytest.importorskip("gguf", reason="needs gguf")

MODEL = {"a": random_tensor((4, 64), torch.float16, 1), "b": random_tensor((8,), torch.float32, 2)}


def quantized(writer: Any) -> None:
    import gguf

    data = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    for name in ("q.0", "q.1"):
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def test_quantized_tensors_are_refused_by_type_and_can_be_left_out(tmp_path: Path) -> None:
    source, target = write_gguf(tmp_path, MODEL, quantized), tmp_path / "x.ckpt"
    line = refused_at_the_prompt(
        ["convert", source, target], "2 of the tensors cannot be stored, the first 'q.0': Q8_0"
    )
    assert "--exclude leaves tensors out" in line
    refused(
        ckptfmt.UnsupportedDtypeError, "1 of the tensors cannot be stored, the first 'q.1': Q8_0",
        lambda: ckptfmt.convert(source, target, exclude="q.0"),
    )  # fmt: skip
    report = ckptfmt.convert(source, target, exclude="q.*")
    assert report.dropped == ["q.0", "q.1"]
    assert same(ckptfmt.load(target), MODEL)
    assert ckptfmt.verify(target, against=source).compared == 2


def test_only_quantized_tensors_are_no_checkpoint(tmp_path: Path) -> None:
    source = write_gguf(tmp_path, {}, quantized)
    refused(
        ckptfmt.SourceError, "the filters leave no tensor",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt", exclude="q.*"),
    )  # fmt: skip


def test_shapes_are_those_of_the_tensors_not_of_the_file(tmp_path: Path) -> None:
    source = write_gguf(tmp_path, {"x": torch.zeros(2, 3, 4)})
    assert list(read_gguf(source)["x"].shape) == [2, 3, 4]
    assert list(ckptfmt.load(converted(source, tmp_path))["x"].shape) == [2, 3, 4]


def test_keys_become_metadata_and_long_lists_are_told(tmp_path: Path) -> None:
    def keys(writer: Any) -> None:
        writer.add_block_count(3)
        writer.add_float32("general.scale", 0.5)
        writer.add_bool("general.flag", True)
        writer.add_array("general.short", [1, 2, 3])
        writer.add_token_list(["ünï"] * 100)

    source = write_gguf(tmp_path, MODEL, keys)
    report = ckptfmt.convert(source, tmp_path / "x.ckpt")
    assert report.left_out == ["model.gguf: tokenizer.ggml.tokens, 100 values"]
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        assert checkpoint.metadata == {
            "general.architecture": "llama", "general.name": "a model", "llama.block_count": "3",
            "general.scale": "0.5", "general.flag": "true", "general.short": "[1, 2, 3]",
        }  # fmt: skip


def split(folder: Path, count: int) -> Path:
    """As llama.cpp's gguf-split names and marks them."""
    for number in range(count):
        def keys(writer: Any, number: int = number) -> None:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", count)

        path = write_gguf(folder, {f"t{number}": torch.full((4,), number)}, keys)
        path.rename(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf")
    return folder


def test_split_files_are_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = split(tmp_path / "source", 3)
    found = ckptfmt.load(converted(source, tmp_path))
    assert {n: t.tolist() for n, t in found.items()} == {f"t{i}": [i] * 4 for i in range(3)}
    refused(
        ckptfmt.SourceError, "is one of 3 files that belong together",
        lambda: ckptfmt.convert(source / "m-00002-of-00003.gguf", tmp_path / "y.ckpt"),
        "convert the folder",
    )  # fmt: skip


def test_a_name_is_no_matter_the_content_is(tmp_path: Path) -> None:
    source = write_gguf(tmp_path, MODEL).rename(tmp_path / "ggml-model.bin")
    assert same(ckptfmt.load(converted(source, tmp_path)), MODEL)


def test_of_several_files_one_has_to_be_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_gguf(tmp_path, MODEL).rename(tmp_path / f"{name}.gguf")
    refused(
        ckptfmt.SourceError, "cannot tell which files belong together: a.gguf, b.gguf",
        lambda: ckptfmt.convert(tmp_path, tmp_path / "x.ckpt"), "name one file",
    )  # fmt: skip


# ---- headers that lie ----


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def header(tensors: int = 0, values: int = 0, body: bytes = b"", start: bytes = b"GGUF") -> bytes:
    return start + struct.pack("<IQQ", 3, tensors, values) + body


def tensor(dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


HUGE_LIST = text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 40)
HEADERS = {
    "10⁷ tensors": (header(tensors=10**7), "lists 10000000 tensors, at most 1000000"),
    "keys without end": (header(values=1 << 60), "it has 1152921504606846976 keys"),
    "keys that are not there": (header(values=5), "not a GGUF file that can be read"),
    "a list without end": (header(values=1, body=HUGE_LIST), "is one of lists, or has 109"),
    "lists of lists": (
        header(values=1, body=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "is one of lists"
    ),
    "a text without end": (header(values=1, body=struct.pack("<Q", 1 << 50)), "a text of"),
    "an unknown type": (header(values=1, body=text(b"k") + b"M\0\0\0"), "77 is not"),
    "a key twice": (header(values=2, body=2 * (text(b"k") + b"\0\0\0\0\1")), "twice"),
    "an alignment of none": (
        header(values=1, body=text(b"general.alignment") + struct.pack("<II", 4, 3)),
        "its alignment is 3",
    ),
    "a text over the end": (header(values=1, body=text(b"k")[:-1]), "over the file's end"),
    "many dimensions": (header(tensors=1, body=text(b"t") + struct.pack("<I", 70)), "has 70 dim"),
    "an unknown kind": (header(tensors=1, body=tensor([4], kind=999) + bytes(99)), "999"),
    "beyond the file": (header(tensors=1, body=tensor([4], offset=1 << 40) + bytes(99)), "model"),
    "a size that wraps": (
        header(tensors=1, body=tensor([1 << 40, 1 << 40]) + bytes(99)), "model.gguf"
    ),
    "big-endian": (header(start=b"FUGG"), "big-endian"),
    "another version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "cut short": (b"GGUF", "not a GGUF file that can be read"),
    "no text": (header(values=1, body=text(b"\xff") + b"\0\0\0\0\1"), "utf-8"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    data, message = HEADERS[what]
    (tmp_path / "model.gguf").write_bytes(data)
    refused(
        ckptfmt.SourceError, message,
        lambda: ckptfmt.convert(tmp_path / "model.gguf", tmp_path / "x.ckpt"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [0, 8])
def test_a_vocabulary_is_stepped_over(kind: int, tmp_path: Path) -> None:
    """In the middle of the header: keys and tensors behind it are found."""
    count = 10_000
    one = b"\1" if kind == 0 else text("tökén".encode())
    body = text(b"k") + struct.pack("<IIQ", 9, kind, count) + one * count
    body += text(b"after") + struct.pack("<IB", 0, 5) + tensor([4])
    data = header(tensors=1, values=2, body=body)
    data += bytes(-len(data) % 32) + struct.pack("<4f", 1, 2, 3, 4)
    (tmp_path / "model.gguf").write_bytes(data)
    report = ckptfmt.convert(tmp_path / "model.gguf", tmp_path / "x.ckpt")
    assert report.left_out == ["model.gguf: k, 10000 values"]
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        assert checkpoint.metadata == {"after": "5"}
    assert ckptfmt.load(tmp_path / "x.ckpt")["t"].tolist() == [1, 2, 3, 4]
    assert read_gguf(tmp_path / "model.gguf")["t"].tolist() == [1, 2, 3, 4]
