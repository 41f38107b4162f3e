"""Every kind of source gives the same checkpoint, and what lies beside the weights travels."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptfmt
from tests.helpers.handmade import snapshot
from tests.helpers.models import equal_bits, small_model, write_folder

Tensors = dict[str, torch.Tensor]


def _converted(source: object, folder: Path, **options: object) -> Path:
    target = folder / "target.ckpt"
    ckptfmt.convert(source, target, **options)
    report = ckptfmt.verify(target)
    assert report.problems == []
    return target


def _holds(checkpoint: Path, wanted: Tensors) -> bool:
    found = ckptfmt.load(checkpoint)
    return set(found) == set(wanted) and all(equal_bits(found[n], t) for n, t in wanted.items())


def _files(checkpoint: Path) -> set[str]:
    return {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}


OURS = {"ckptfmt.json", "SHA256SUMS", "part-00000.ckptfmt"}


# ---- where the weights are ----


def _one_safetensors(folder: Path, model: Tensors) -> Path:
    save_file(model, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def _folder(folder: Path, model: Tensors) -> Path:
    return write_folder(folder / "model", model)


def _sharded(folder: Path, model: Tensors) -> Path:
    return write_folder(folder / "model", model, shards=3)


def _sharded_index_named(folder: Path, model: Tensors) -> Path:
    return write_folder(folder / "model", model, shards=3) / "model.safetensors.index.json"


def _sharded_without_index(folder: Path, model: Tensors) -> Path:
    source = write_folder(folder / "model", model, shards=3)
    (source / "model.safetensors.index.json").unlink()
    return source


def _one_bin(folder: Path, model: Tensors) -> Path:
    torch.save(model, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def _one_pt(folder: Path, model: Tensors) -> Path:
    torch.save(model, folder / "epoch3.pt")
    return folder / "epoch3.pt"


def _bin_folder(folder: Path, model: Tensors) -> Path:
    torch.save(model, folder / "pytorch_model.bin")
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    return folder


def _sharded_bin(folder: Path, model: Tensors) -> Path:
    weight_map = {}
    for i in range(2):
        file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        mine = {name: model[name] for name in list(model)[i::2]}
        torch.save(mine, folder / file)
        weight_map.update(dict.fromkeys(mine, file))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def _wrapped(folder: Path, model: Tensors) -> Path:
    torch.save({"state_dict": model, "epoch": 3, "loss": 0.5}, folder / "model.pth")
    return folder / "model.pth"


def _live_dict(folder: Path, model: Tensors) -> Tensors:
    return model


def _checkpoint(folder: Path, model: Tensors) -> Path:
    ckptfmt.convert(model, folder / "first.ckpt", partition_size="1200KiB", alignment="64KiB")
    return folder / "first.ckpt"


KINDS = {
    "safetensors file": (_one_safetensors, "safetensors"),
    "folder": (_folder, "safetensors"),
    "sharded": (_sharded, "safetensors"),
    "sharded, by its index": (_sharded_index_named, "safetensors"),
    "sharded without index": (_sharded_without_index, "safetensors"),
    "bin file": (_one_bin, "torch"),
    "pt file": (_one_pt, "torch"),
    "bin folder": (_bin_folder, "torch"),
    "sharded bin": (_sharded_bin, "torch"),
    "wrapped state dict": (_wrapped, "torch"),
    "live dict": (_live_dict, "live"),
    "checkpoint": (_checkpoint, "ckptfmt"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_its_tensors(kind: str, tmp_path: Path, model: Tensors) -> None:
    make, provenance = KINDS[kind]
    source = make(tmp_path, model)
    target = _converted(source, tmp_path)
    assert _holds(target, model)
    with ckptfmt.open(target) as checkpoint:
        told = checkpoint.provenance["source"]
    assert told["kind"] == provenance
    if isinstance(source, Path):
        assert told["name"] == source.name
        assert sum(file["nbytes"] for file in told["files"]) > 0
        assert ckptfmt.verify(target, against=source).compared == len(model)


def test_a_live_module_is_stored_with_its_buffers_and_ties(tmp_path: Path) -> None:
    module = torch.nn.Sequential(
        torch.nn.Embedding(50, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 50, bias=False)
    )
    module[2].weight = module[0].weight
    target = _converted(module, tmp_path)
    assert _holds(target, module.state_dict())
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.info("2.weight").names == ("0.weight", "2.weight")


def test_safetensors_win_over_bin_and_the_report_says_what_was_left_out(
    tmp_path: Path, model: Tensors
) -> None:
    source = write_folder(tmp_path / "model", model)
    torch.save(small_model(seed=100), source / "pytorch_model.bin")
    report = ckptfmt.convert(source, tmp_path / "target.ckpt")
    assert _holds(tmp_path / "target.ckpt", model)
    assert report.left_out == ["pytorch_model.bin"]
    assert _files(tmp_path / "target.ckpt") == OURS | {"config.json", "tokenizer/vocab.txt"}


def test_file_metadata_is_kept(tmp_path: Path, model: Tensors) -> None:
    save_file(model, tmp_path / "a.safetensors", metadata={"format": "pt", "who": "ünï"})
    with ckptfmt.open(_converted(tmp_path / "a.safetensors", tmp_path)) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "who": "ünï"}


def test_the_same_source_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    ckptfmt.convert(source, first, workers=1)
    ckptfmt.convert(source, second, workers=3)
    assert _files(first) == _files(second)
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in _files(first))


def test_a_checkpoint_is_cast_and_cut_anew(tmp_path: Path, source: Path, model: Tensors) -> None:
    ckptfmt.convert(source, tmp_path / "first")
    report = ckptfmt.convert(
        tmp_path / "first", tmp_path / "second", dtype="fp16", partition_size="1030KiB"
    )
    assert len(report.plan.partitions) > 2
    assert report.cast == sum(t.dtype in (torch.float32, torch.bfloat16) for t in model.values())
    wanted = {n: t.half() if t.is_floating_point() else t for n, t in model.items()}
    assert _holds(tmp_path / "second", wanted)
    assert "tokenizer/vocab.txt" in _files(tmp_path / "second")
    assert ckptfmt.verify(tmp_path / "second", against=tmp_path / "first").compared == len(model)


def test_an_empty_dict_is_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    target = _converted({}, tmp_path)
    assert ckptfmt.load(target) == {}
    assert _files(target) == OURS - {"part-00000.ckptfmt"}


# ---- what lies beside them ----


def test_links_of_a_hub_cache_are_followed(tmp_path: Path, model: Tensors) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    written = write_folder(tmp_path / "plain", model, shards=2)
    blobs.mkdir()
    for i, path in enumerate(sorted(p for p in written.rglob("*") if p.is_file())):
        path.rename(blobs / str(i))
        link = snapshot / path.relative_to(written)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    target = _converted(snapshot, tmp_path)
    assert _holds(target, model)
    assert (target / "tokenizer" / "vocab.txt").read_text() == "hello\nworld\n"
    assert not any(p.is_symlink() for p in target.rglob("*"))


def test_sidecars_travel_with_their_folders_and_nothing_else_does(
    tmp_path: Path, model: Tensors
) -> None:
    source = write_folder(tmp_path / "model", model, shards=2)
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "code.py").write_text("print(1)\n")
    (source / "odd\nname \\ é.txt").write_bytes(b"\x00\xff")
    (source / "tokenizer" / "back").symlink_to(source)  # a circle
    os.mkfifo(source / "pipe")
    left_out = {
        "tokenizer/back", "pipe", "training_args.bin", "optimizer.pt", "flax_model.msgpack",
        "pytorch_model.bin.index.json", "a/adapter.safetensors", "model.safetensors.index.json",
    }  # fmt: skip
    for name in left_out - {"model.safetensors.index.json", "tokenizer/back", "pipe"}:
        (source / name).write_bytes(b"{}")
    for folder in (".git", ".cache"):
        (source / folder).mkdir()
        (source / folder / "config").write_text("x")
    report = ckptfmt.convert(source, tmp_path / "target.ckpt")
    travelling = {"config.json", "tokenizer/vocab.txt", "a/b/code.py", "odd\nname \\ é.txt"}
    assert set(report.sidecars) == travelling
    assert set(report.left_out) == left_out
    assert _files(tmp_path / "target.ckpt") == OURS | travelling
    assert all(
        (tmp_path / "target.ckpt" / n).read_bytes() == (source / n).read_bytes() for n in travelling
    )
    assert ckptfmt.verify(tmp_path / "target.ckpt").problems == []


@pytest.mark.parametrize(
    "name", ["SHA256SUMS", "part-00000.ckptfmt", "part-00007.ckptfmt/a", "resume.json"]
)
def test_a_sidecar_with_a_name_of_ours_is_refused(
    name: str, tmp_path: Path, source: Path
) -> None:
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text("mine\n")
    with pytest.raises(ckptfmt.SourceError, match=f"{name}: has a name that belongs to the check"):
        ckptfmt.convert(source, tmp_path / "target.ckpt")
    assert not (tmp_path / "target.ckpt").exists()
    assert not (tmp_path / "target.ckpt.partial").exists()


def test_a_broken_link_is_named(tmp_path: Path, source: Path) -> None:
    (source / "tokenizer.json").symlink_to("../../blobs/gone")
    with pytest.raises(ckptfmt.SourceError, match=r"tokenizer\.json: a link to .*blobs/gone"):
        ckptfmt.convert(source, tmp_path / "target.ckpt")


def test_weights_behind_a_broken_link_are_not_replaced_by_others(
    tmp_path: Path, model: Tensors
) -> None:
    source = write_folder(tmp_path / "model", model)
    torch.save(small_model(seed=100), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(ckptfmt.SourceError, match=r"model\.safetensors: a link to .*blobs/gone"):
        ckptfmt.convert(source, tmp_path / "target.ckpt")


@pytest.mark.parametrize(("source_file", "where"), [
    ("m.safetensors", "ckptfmt.sources.safetensors_header.open"), ("m.bin", "os.open"),
])  # fmt: skip
def test_a_file_that_may_not_be_read_is_named_with_the_reason(
    source_file: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "m.safetensors")
    torch.save({"x": torch.ones(2)}, tmp_path / "m.bin")

    def refuse(path: str, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(where, refuse, raising=False)
    with pytest.raises(ckptfmt.FileError, match=f"{source_file}: cannot be read: Perm") as caught:
        ckptfmt.convert(tmp_path / source_file, tmp_path / "x.ckpt")
    assert caught.value.errno == errno.EACCES


def test_the_source_is_never_written_to(tmp_path: Path, source: Path) -> None:
    before = snapshot(source)
    _converted(source, tmp_path, dtype="fp16")
    assert snapshot(source) == before
