"""Wrong sources: each is refused by name before anything is written."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptfmt
from ckptfmt import (
    NotFoundError,
    SourceError,
    UnsupportedDtypeError,
)  # fmt: skip
from tests.helpers.handmade import (
    save_legacy,
    snapshot,
    write_safetensors,
    write_safetensors_header,
)  # fmt: skip
from tests.helpers.models import small_model, write_folder
from tests.helpers.refusals import refused, refused_at_the_prompt

ONE = {"x": torch.ones(3)}
HEADER = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'


class Danger:
    """What runs code when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


class Plain:
    """An object of a class of one's own."""


# ---- each makes a wrong source below a folder, and says what to convert ----


def _index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> Path:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _nothing_there(folder: Path) -> Path:
    return folder / "model"


def _no_weights(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def _weights_below(folder: Path) -> Path:
    write_folder(folder / "unet", ONE)
    write_folder(folder / "vae", ONE)
    return folder


def _another_kind(folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(b"onnx")
    return folder / "model.onnx"


def _only_onnx(folder: Path) -> Path:
    return _another_kind(folder).parent


def _shard_missing(folder: Path) -> Path:
    write_folder(folder, small_model(), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    return folder


def _shards_missing_without_index(folder: Path) -> Path:
    (_shard_missing(folder) / "model.safetensors.index.json").unlink()
    return folder


def _bin_shard_missing(folder: Path) -> Path:
    return _index(folder, {"x": "pytorch_model-00001-of-00001.bin"}, "pytorch_model.bin.index.json")


def _tensor_missing(folder: Path) -> Path:
    save_file(ONE, folder / "a.safetensors")
    return _index(folder, {"x": "a.safetensors", "lost": "a.safetensors"})


def _path_outside(folder: Path) -> Path:
    save_file(ONE, folder / "a.safetensors")
    (folder / "in").mkdir()
    return _index(folder / "in", {"x": "../a.safetensors"})


def _empty_index(folder: Path) -> Path:
    return _index(folder, {})


def _index_of_other_types(folder: Path) -> Path:
    return _index(folder, {"x": 5})


def _index_no_json(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": \xff')
    return folder


def _several_sets(folder: Path) -> Path:
    _index(folder, {"x": "a"}, "one.safetensors.index.json")
    return _index(folder, {"x": "b"}, "two.safetensors.index.json")


def _unrelated_files(folder: Path) -> Path:
    for name in ("a", "b"):
        save_file({name: torch.ones(1)}, folder / f"{name}.safetensors")
    return folder


def _twice(folder: Path) -> Path:
    for i in (1, 2):
        save_file(ONE, folder / f"model-0000{i}-of-00002.safetensors")
    return folder


def _twice_in_bins(folder: Path) -> Path:
    for i in (1, 2):
        torch.save(ONE, folder / f"pytorch_model-0000{i}-of-00002.bin")
    return folder


def _cut_short(folder: Path) -> Path:
    save_file(small_model(), folder / "model.safetensors")
    os.truncate(folder / "model.safetensors", 100_000)
    return folder


def _zero_bytes(folder: Path) -> Path:
    (folder / "model.safetensors").touch()
    return folder


def _html(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><title>404</title>")
    return folder


def _key_twice(folder: Path) -> Path:
    twice = HEADER[:-1] + b"," + HEADER[1:]
    return write_safetensors_header(folder / "a.safetensors", twice, b"\0" * 12)


def _unknown_dtype(folder: Path) -> Path:
    return write_safetensors(folder / "a.safetensors", {"x": ("F7", [3], b"abc")})


def _saved(value: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value, folder / "m.bin")
        return folder / "m.bin"

    return make


def _code(folder: Path) -> Path:
    torch.save({**ONE, "y": Danger(str(folder / "ran"))}, folder / "m.bin")
    return folder / "m.bin"


def _legacy(folder: Path) -> Path:
    return save_legacy(ONE, folder / "m.bin")


def _plain_pickle(folder: Path) -> Path:
    (folder / "m.pt").write_bytes(pickle.dumps(Danger(str(folder / "ran"))))
    return folder / "m.pt"


def _bin_cut_short(folder: Path) -> Path:
    torch.save(small_model(), folder / "m.bin")
    os.truncate(folder / "m.bin", 1 << 20)
    return folder / "m.bin"


def _other_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    return folder / "m.pth"


SPARSE = torch.eye(3).to_sparse()
FETCH = "fetch"
CODE = "runs no code from a checkpoint"
SOURCES: dict[str, tuple[Callable[[Path], Path], type[ckptfmt.CkptError], str, str]] = {
    "nothing there": (_nothing_there, NotFoundError, "no such source", "give a folder with"),
    "no weights": (_no_weights, SourceError, "no weights in it that can be read", ""),
    "weights below": (_weights_below, SourceError, "no weights in it", "weights are in unet, vae"),
    "another kind": (_another_kind, SourceError, "of no kind that can be converted", "give a fol"),
    "only onnx": (_only_onnx, SourceError, "found model.onnx", ""),
    "shard missing": (_shard_missing, SourceError, "names 'model-00002-of-00003.*not there", FETCH),
    "shard gap": (_shards_missing_without_index, SourceError, "model-00002-of-0000.*1 of 3", FETCH),
    "bin shard missing": (_bin_shard_missing, SourceError, "names 'pytorch_model-00001", FETCH),
    "tensor missing": (_tensor_missing, SourceError, "promises tensor 'lost' in a.safetens", FETCH),
    "path outside": (_path_outside, SourceError, "names '../a.safetensors', which is outside", ""),
    "empty index": (_empty_index, SourceError, "lists no tensor", ""),
    "index of other types": (_index_of_other_types, SourceError, "not a weight index: ", ""),
    "index no JSON": (_index_no_json, SourceError, "not a weight index: ", ""),
    "several sets": (_several_sets, SourceError, "several sets of weights: one.*, two", "name one"),
    "unrelated files": (_unrelated_files, SourceError, "which files belong together", "name one"),
    "twice": (_twice, SourceError, "tensor 'x' is also in model-00001", "mixes two checkpoints"),
    "twice in bins": (_twice_in_bins, SourceError, "tensor 'x' is also in another", "mixes two"),
    "cut short": (_cut_short, SourceError, "not a valid safetensors file", FETCH),
    "zero bytes": (_zero_bytes, SourceError, "not a valid safetensors file", FETCH),
    "a web page": (_html, SourceError, "not a valid safetensors file", FETCH),
    "key twice": (_key_twice, SourceError, "'x' stands twice", ""),
    "unknown dtype": (_unknown_dtype, SourceError, "F7", ""),
    "code": (_code, SourceError, "cannot be read as weights alone", CODE),
    "an object": (_saved({"y": Plain()}), SourceError, "cannot be read as weights alone", CODE),
    "legacy": (_legacy, SourceError, "not a zip archive; it was saved in", "torch.save"),
    "plain pickle": (_plain_pickle, SourceError, "not a zip archive", ""),
    "bin cut short": (_bin_cut_short, SourceError, "not a zip archive.*or is cut short", ""),
    "other zip": (_other_zip, SourceError, "cannot be read as weights alone", ""),
    "a list": (_saved([torch.ones(1)]), SourceError, "holds a list, expected a dict", ""),
    "a tensor": (_saved(torch.ones(1)), SourceError, "holds a Tensor, expected a dict", ""),
    "training state": (_saved({**ONE, "epoch": 3}), SourceError, "'epoch' is a int", "state dict"),
    "names": (_saved({5: torch.ones(1)}), SourceError, "5 is no tensor name", ""),
    "sparse": (_saved({"s": SPARSE}), UnsupportedDtypeError, "'s' is torch.sparse", "dense"),
}


@pytest.mark.parametrize("what", SOURCES)
def test_a_wrong_source_is_refused(what: str, tmp_path: Path) -> None:
    make, kind, message, hint = SOURCES[what]
    folder = tmp_path / "source"
    folder.mkdir()
    source, target = make(folder), tmp_path / "x.ckpt"
    before = snapshot(tmp_path)
    for options in ({}, {"dry_run": True}):
        refused(kind, message, lambda o=options: ckptfmt.convert(source, target, **o), hint)
    line = refused_at_the_prompt(["convert", source, target], message)
    assert hint in line
    assert snapshot(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
    assert not (folder / "ran").exists()


LIVE = {
    "sparse": ({"s": SPARSE}, UnsupportedDtypeError, "'s' is torch.sparse_coo"),
    "meta": ({"m": torch.ones(3, device="meta")}, UnsupportedDtypeError, "'m' is on the meta devi"),
    "array": ({"a": torch.ones(3).numpy()}, SourceError, "'a' is a ndarray, expected a tensor"),
    "number": ({"a": 3}, SourceError, "'a' is a int, expected a tensor"),
    "nested": ({"a": {"b": torch.ones(1)}}, SourceError, "'a' is a dict, expected a tensor"),
    "name": ({3: torch.ones(1)}, SourceError, "3 is no tensor name"),
    "surrogate": ({"\ud800": torch.ones(1)}, SourceError, "cannot be written as UTF-8"),
}


@pytest.mark.parametrize("what", LIVE)
def test_a_wrong_live_object_is_refused(what: str, tmp_path: Path) -> None:
    source, kind, message = LIVE[what]
    refused(kind, message, lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_tensor_is_refused(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    refused(
        UnsupportedDtypeError, "'q' is quantized",
        lambda: ckptfmt.convert({"q": tensor}, tmp_path / "x.ckpt"), "int_repr",
    )  # fmt: skip
