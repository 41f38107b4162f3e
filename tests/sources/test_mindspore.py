"""MindSpore checkpoints: entries in pieces, checksums, texts, and messages that lie."""

from __future__ import annotations

import binascii
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.formats import field, ms_entry, raw, varint, write_mindspore
from tests.helpers.handmade import flip
from tests.helpers.models import random_tensor
from tests.helpers.refusals import refused
from tests.sources.test_formats import converted, same

MODEL = {"a": random_tensor((40, 30), torch.bfloat16, 1), "b": random_tensor((8,), torch.int64, 2)}
FOUR = raw(torch.arange(4, dtype=torch.float32))
ONE = ms_entry("x", "Float32", (4,), FOUR)


def file(folder: Path, *entries: bytes) -> Path:
    (folder / "model.ckpt").write_bytes(b"".join(entries))
    return folder / "model.ckpt"


def test_a_scalar_of_older_versions_has_the_shape_of_nothing(tmp_path: Path) -> None:
    source = file(tmp_path, ms_entry("step", "Int32", (0,), (7).to_bytes(4, "little")))
    assert same(ckptfmt.load(converted(source, tmp_path)), {"step": torch.tensor(7).int()})


def test_texts_become_metadata(tmp_path: Path) -> None:
    text = "größe 7".encode("utf-32-le")
    source = file(tmp_path, ms_entry("note", "str", (0,), text), ONE)
    with ckptfmt.open(converted(source, tmp_path)) as checkpoint:
        assert checkpoint.metadata == {"note": "größe 7"}


def test_what_is_no_tensor_has_to_be_left_out(tmp_path: Path) -> None:
    table = field(1, field(1, b"table") + field(3, field(1, b"")))
    source = file(
        tmp_path, ONE, ms_entry("random_op", "random_op", (), b"s"),
        ms_entry("q", "Int4", (8,), FOUR), table,
    )  # fmt: skip
    refused(
        ckptfmt.UnsupportedDtypeError, "3 of the tensors .*: Int4, a table of emb.*, random_op",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "--exclude",
    )  # fmt: skip
    target = converted(source, tmp_path, exclude=["random_op", "q", "table"])
    assert list(ckptfmt.load(target)) == ["x"]


def test_shapes_may_be_packed_and_fields_in_any_order(tmp_path: Path) -> None:
    tensor = field(3, FOUR) + field(2, b"Float32") + field(1, varint(2) + varint(2)) + field(9, 5)
    source = file(tmp_path, field(1, field(2, tensor) + field(1, b"x")))
    found = ckptfmt.load(converted(source, tmp_path))["x"]
    assert found.tolist() == [[0, 1], [2, 3]]


def with_checksum(path: Path) -> Path:
    """As ``save_checkpoint(crc_check=True)``."""
    data = path.read_bytes()
    path.write_bytes(data + b"crc_num" + binascii.crc32(data).to_bytes(10, "big"))
    return path


def test_its_checksum_is_compared(tmp_path: Path) -> None:
    source = with_checksum(write_mindspore(tmp_path, MODEL))
    assert same(ckptfmt.load(converted(source, tmp_path)), MODEL)
    flip(source, 500)
    refused(
        ckptfmt.SourceError, "checksum [0-9a-f]{8}, expected",
        lambda: ckptfmt.convert(source, tmp_path / "y.ckpt"), "damaged",
    )  # fmt: skip


def test_a_ckpt_that_is_a_zip_is_torch_s(tmp_path: Path) -> None:
    torch.save({"state_dict": MODEL}, tmp_path / "epoch.ckpt")
    target = converted(tmp_path / "epoch.ckpt", tmp_path)
    assert same(ckptfmt.load(target), MODEL)
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.provenance["source"]["kind"] == "torch"


LIES = {
    "encrypted": (b"\x8a\x1f" + bytes(range(255)), "not a MindSpore checkpoint"),
    "empty": (b"", "holds no parameter"),
    "a shape that lies": (ms_entry("x", "Float32", (5,), FOUR), "has 16 bytes, F32 .* needs 20"),
    "a negative shape": (ms_entry("x", "Float32", (-1, 4), FOUR), r"the shape \[-1, 4\]"),
    "a huge shape": (ms_entry("x", "Float32", (1 << 62, 1 << 62), FOUR), "has 16 bytes"),
    "many dimensions": (ms_entry("x", "Float32", (1,) * 65, FOUR[:4]), "more than 64 dimensions"),
    "pieces apart": (ONE + ms_entry("y", "Float32", (4,), FOUR) + ONE, "'x' stands twice"),
    "pieces that differ": (
        ms_entry("x", "Float32", (8,), FOUR) + ms_entry("x", "Float32", (9,), FOUR),
        "the pieces of 'x' have different shapes",
    ),
    "a piece too many": (ONE + ONE, "has 32 bytes, F32"),
    "no content": (field(1, field(1, b"x") + field(2, field(2, b"Float32"))), "has no content"),
    "beyond the file": (b"\x0a" + varint(1 << 40) + ONE, "goes over the end"),
    "beyond the entry": (field(1, b"\x0a\x7fx"), "goes over the end"),
    "an endless integer": (b"\xff" * 20, "more than 64 bits"),
    "a name that is no text": (field(1, field(1, b"\xff") + field(2, b"")), "not a MindSpore"),
    "a long name": (field(1, field(1, b"x" * 70_000)), "a field of 70000 bytes"),
    "groups": (b"\x0b\x0c", "begins no field"),
    "another message": (field(2, ONE), "no entry begins"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_message_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    data, message = LIES[what]
    source = file(tmp_path, data)
    refused(ckptfmt.SourceError, message, lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]
