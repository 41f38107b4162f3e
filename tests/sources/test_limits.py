"""Indexes of ten million tensors, and links out of a folder: refused before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptfmt
from tests.helpers.children import run_child
from tests.helpers.formats import FORMATS, ms_entry, write_sllm
from tests.helpers.refusals import refused


def _sllm(folder: Path, count: int) -> Path:
    (folder / "tensor.data_0").write_bytes(bytes(8))
    one = b'"%07d":[0,1,[1],[1],"torch.uint8"],'
    with (folder / "tensor_index.json").open("wb") as stream:
        stream.write(b"{")
        for start in range(0, count, 100_000):
            stream.write(b"".join(one % i for i in range(start, min(start + 100_000, count))))
        stream.write(b'"end":[0,1,[1],[1],"torch.uint8"]}')
    return folder


def _weight_map(folder: Path, count: int) -> Path:
    save_file({"x": torch.ones(1)}, folder / "a.safetensors")
    with (folder / "model.safetensors.index.json").open("wb") as stream:
        stream.write(b'{"weight_map":{')
        for start in range(0, count, 100_000):
            part = range(start, min(start + 100_000, count))
            stream.write(b"".join(b'"%07d":"a.safetensors",' % i for i in part))
        stream.write(b'"x":"a.safetensors"}}')
    return folder


def _mindspore(folder: Path, count: int) -> Path:
    path = folder / "model.ckpt"
    with path.open("wb") as stream:
        for start in range(0, count, 100_000):
            part = range(start, min(start + 100_000, count))
            stream.write(b"".join(ms_entry(f"{i:07d}", "UInt8", (1,), b"x") for i in part))
    return path


BIG = {
    "sllm": (_sllm, 5_000_000, "lists 5000001 tensors, at most 1000000"),
    "sllm, larger than an index may be": (_sllm, 10_000_000, "an index of .* bytes, at most"),
    "weight map": (_weight_map, 10_000_000, "lists 10000001 tensors, at most 1000000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BIG)
def test_an_index_of_millions_is_refused_in_little_memory(what: str, tmp_path: Path) -> None:
    make, count, message = BIG[what]
    source = make(tmp_path, count)
    child = run_child(
        "import ckptfmt, resource, sys, safetensors, numpy\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    ckptfmt.convert(sys.argv[1], sys.argv[2])\n"
        "except ckptfmt.SourceError as error:\n"
        "    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)",
        source, tmp_path / "x.ckpt",
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    told, grown = child.stdout.splitlines()
    assert message.split(".*")[0] in told
    assert int(grown) < 400 << 10, "no more than the file itself, once"


@pytest.mark.parametrize("make", [_sllm, _weight_map, _mindspore])
def test_tensors_are_counted_before_objects_are_made(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptfmt.sources.limits.MAX_TENSORS", 30)
    monkeypatch.setattr("msgspec.json.decode", None)
    source = make(tmp_path, 40)
    refused(
        ckptfmt.SourceError, r"lists (41|31) tensors, at most 30",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


def test_a_link_out_of_the_folder_is_refused_where_the_format_names_the_file(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_sllm(source, {"x": torch.ones(300)})
    for name in ("tensor.data_0", "tensor_index.json"):
        (source / name).rename(tmp_path / "secret")
        (source / name).symlink_to(tmp_path / "secret")
        refused(
            ckptfmt.SourceError, f"{name}: a link to .*secret, which is outside the folder",
            lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "put the file itself",
        )  # fmt: skip
        (source / name).unlink()
        (tmp_path / "secret").rename(source / name)
    (source / "tensor.data_0").rename(source / "moved")
    (source / "tensor.data_0").symlink_to("moved")
    assert ckptfmt.convert(source, tmp_path / "x.ckpt").nbytes == 1200


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    names = ("m.safetensors", "m.bin", "m.gguf", "m.npz", "m.ckpt", "m.onnx")
    for name in names:
        os.mkfifo(tmp_path / name)
    child = run_child(
        "import ckptfmt, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        ckptfmt.convert(name, 'x.ckpt')\n"
        "    except ckptfmt.SourceError as error:\n"
        "        print(error)",
        *(tmp_path / name for name in names), timeout_s=60,
    )  # fmt: skip
    assert child.stdout.splitlines() == [f"{tmp_path / n}: not a regular file" for n in names]
    write_sllm(tmp_path, {"x": torch.ones(3)})
    (tmp_path / "tensor.data_0").unlink()
    os.mkfifo(tmp_path / "tensor.data_0")
    refused(
        ckptfmt.SourceError, "tensor.data_0: not a regular file",
        lambda: ckptfmt.convert(tmp_path / "tensor_index.json", tmp_path / "x.ckpt"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["sllm", "dcp", "safetensors"])
def test_links_of_a_hub_s_cache_are_followed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    made = FORMATS[kind].write(tmp_path / "plain", {"x": torch.ones(300)})
    snapshot, blobs = tmp_path / "models--a" / "snapshots" / "abc", tmp_path / "models--a" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(made.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    ckptfmt.convert(snapshot, tmp_path / "x.ckpt")
    assert torch.equal(ckptfmt.load(tmp_path / "x.ckpt")["x"], torch.ones(300))
