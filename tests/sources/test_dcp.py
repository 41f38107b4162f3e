"""torch's distributed checkpoints: pieces joined, objects, metadata that is a hostile pickle."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import filesystem, metadata

import ckptfmt
from ckptfmt.sources import pickles
from ckptfmt.sources.dcp_metadata import ALLOWED, _dtype
from tests.helpers.children import run_child
from tests.helpers.formats import read_dcp, write_dcp
from tests.helpers.models import random_tensor
from tests.helpers.refusals import refused
from tests.integration.test_wrong_sources import Danger
from tests.sources.test_formats import converted, same

Piece = tuple[tuple[int, ...], torch.Tensor]
BIG = random_tensor((6, 10), torch.float32, 1)
#: Rows to one rank; the rest by columns to two others.
PIECES: list[Piece] = [((0, 0), BIG[:2]), ((2, 0), BIG[2:, :3]), ((2, 3), BIG[2:, 3:])]


def save_pieces(folder: Path, tensors: dict[str, tuple[list[int], list[Piece]]]) -> Path:
    """A file for each number of a piece, as ranks write them; metadata in torch's own classes."""
    folder.mkdir()
    entries, storage = {}, {}
    files: dict[str, io.BytesIO] = {}
    for name, (shape, pieces) in tensors.items():
        dtype = pieces[0][1].dtype if pieces else torch.float32
        for rank, (offsets, value) in enumerate(pieces):
            file = f"__{rank}_0.distcp"
            stream = files.setdefault(file, io.BytesIO())
            data = io.BytesIO()
            torch.save(value.contiguous().clone(), data)
            at = stream.seek(0, os.SEEK_END)
            stream.write(data.getvalue())
            index = metadata.MetadataIndex(name, offsets)
            storage[index] = filesystem._StorageInfo(file, at, data.tell())
        entries[name] = metadata.TensorStorageMetadata(
            metadata.TensorProperties(dtype=dtype), torch.Size(shape),
            [metadata.ChunkStorageMetadata(torch.Size(o), v.size()) for o, v in pieces],
        )  # fmt: skip
    for file, stream in files.items():
        (folder / file).write_bytes(stream.getvalue())
    write_metadata(folder, metadata.Metadata(entries, storage_data=storage))
    return folder


def write_metadata(folder: Path, value: object) -> None:
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(value, stream)


def edit(folder: Path, change: Callable[[Any], object]) -> Path:
    """Change the metadata, as the objects they are."""
    found = pickle.loads((folder / ".metadata").read_bytes())
    change(found)
    write_metadata(folder, found)
    return folder


def test_pieces_of_several_ranks_are_joined(tmp_path: Path) -> None:
    small = random_tensor((5,), torch.bfloat16, 2)
    source = save_pieces(
        tmp_path / "step-1", {"big": ([6, 10], PIECES), "small": ([5], [((0,), small)])}
    )
    wanted = {"big": BIG, "small": small}
    assert same(read_dcp(source), wanted)
    assert same(ckptfmt.load(converted(source, tmp_path)), wanted)


@pytest.mark.slow
def test_what_two_processes_save_together_is_joined(tmp_path: Path) -> None:
    # Left at once when all is written: gloo's threads sometimes end a process that exits otherwise.
    code = (
        "import os, sys, torch, torch.distributed as dist\n"
        "import torch.distributed.checkpoint as dcp\n"
        "from torch.distributed.tensor import Replicate, Shard, distribute_tensor\n"
        "rank, folder = int(sys.argv[1]), sys.argv[2]\n"
        "dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank,"
        " world_size=2)\n"
        "mesh = dist.device_mesh.init_device_mesh('cpu', (2,))\n"
        "full = torch.arange(35.).view(7, 5)\n"
        "state = {n: distribute_tensor(full, mesh, [p]) for n, p in"
        " {'rows': Shard(0), 'columns': Shard(1), 'whole': Replicate()}.items()}\n"
        "dcp.save({'model': state}, checkpoint_id=f'{folder}/step-1')\n"
        "dist.barrier()\n"
        "os._exit(0)\n"
    )
    import subprocess

    with subprocess.Popen([sys.executable, "-c", code, "1", str(tmp_path)]) as other:
        try:
            child = run_child(code, "0", tmp_path)
            assert child.returncode == 0, child.stderr
            assert other.wait(60) == 0
        finally:
            other.kill()
    assert len(list((tmp_path / "step-1").glob("*.distcp"))) == 2
    wanted = torch.arange(35.0).view(7, 5)
    found = ckptfmt.load(converted(tmp_path / "step-1", tmp_path))
    assert set(found) == {"model.rows", "model.columns", "model.whole"}
    assert all(torch.equal(tensor, wanted) for tensor in found.values())


def test_nested_dicts_and_their_paths(tmp_path: Path) -> None:
    state = {"model": {"a": torch.ones(3), "b": [torch.zeros(2), torch.ones(1)]}}
    source = write_dcp(tmp_path, state)
    assert set(ckptfmt.load(converted(source, tmp_path))) == {"model.a", "model.b.0", "model.b.1"}


def test_objects_beside_the_tensors_have_to_be_left_out(tmp_path: Path) -> None:
    source = write_dcp(tmp_path, {"x": torch.ones(3), "epoch": 7, "lr": {"last": 0.1}})
    refused(
        ckptfmt.UnsupportedDtypeError, "2 of the tensors .*: objects that are no tensors",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "--exclude",
    )  # fmt: skip
    report = ckptfmt.convert(source, tmp_path / "x.ckpt", exclude=["epoch", "lr.*"])
    assert sorted(report.dropped) == ["epoch", "lr.last"]
    assert list(ckptfmt.load(tmp_path / "x.ckpt")) == ["x"]


def test_properties_of_older_versions_are_read() -> None:
    """Until 2.2 the class lived in another module, and others pickled fields, not a tuple."""
    old = "torch.distributed._shard.sharded_tensor.metadata"
    new = type(metadata.TensorProperties()).__module__
    data = pickle.dumps(metadata.TensorProperties(torch.bfloat16), protocol=2)
    record = pickles.read_pickle(data.replace(new.encode(), old.encode()), "x", ALLOWED)
    assert record.name == f"{old}.TensorProperties"
    assert _dtype(record) == "torch.bfloat16"
    record.state = {"dtype": record.state[0]}
    assert _dtype(record) == "torch.bfloat16"


# ---- metadata that lies ----


def _first(found: Any) -> Any:
    return next(iter(found.storage_data.values()))


def _lies(field: str, value: object) -> Callable[[Any], None]:
    return lambda found: setattr(_first(found), field, value)


def _overlap(found: Any) -> None:
    chunks = found.state_dict_metadata["big"].chunks
    chunks[2].offsets = torch.Size([2, 2])
    found.storage_data[metadata.MetadataIndex("big", [2, 2])] = _first(found)


def _gap(found: Any) -> None:
    found.state_dict_metadata["big"].size = torch.Size([7, 10])


def _outside(found: Any) -> None:
    found.state_dict_metadata["big"].chunks[0].offsets = torch.Size([-1, 0])
    found.storage_data[metadata.MetadataIndex("big", [-1, 0])] = _first(found)


def _nowhere(found: Any) -> None:
    found.state_dict_metadata["big"].chunks[0].offsets = torch.Size([1, 0])


def _huge(found: Any) -> None:
    entry = found.state_dict_metadata["big"]
    entry.size = torch.Size([1 << 40, 10])
    entry.chunks = entry.chunks[:1]
    entry.chunks[0].sizes = entry.size


def _other_type(found: Any) -> None:
    found.state_dict_metadata["big"].size = "large"


METADATA = {
    "a path outside": (_lies("relative_path", "../x.distcp"), "'../x.distcp', which is outside"),
    "an absolute path": (_lies("relative_path", "/etc/passwd"), "which is outside its folder"),
    "a file that is not there": (_lies("relative_path", "__7_0.distcp"), "__7_0.distcp: is not th"),
    "beyond the file": (_lies("offset", 1 << 40), "the file ends at"),
    "before the file": (_lies("offset", -5), "the file ends at"),
    "too short": (_lies("length", 8), "has 8 bytes, it needs 80"),
    "compressed": (_lies("transform_descriptors", ["zstd"]), "compressed by an extension"),
    "pieces that overlap": (_overlap, "pieces of tensor 'big' overlap"),
    "pieces that leave a gap": (_gap, "the pieces of tensor 'big' do not fill it"),
    "a piece outside": (_outside, "the pieces of tensor 'big' do not fill it"),
    "a piece nowhere": (_nowhere, r"the piece of 'big' at \[1, 0\] is in no file"),
    "a huge tensor": (_huge, "it needs 43980465111040"),
    "another type": (_other_type, "not a distributed checkpoint's metadata"),
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    change, message = METADATA[what]
    source = edit(save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)}), change)
    refused(ckptfmt.SourceError, message, lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"))
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    source = save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)})
    (source / "__0_0.distcp").rename(tmp_path / "elsewhere")
    (source / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")
    refused(
        ckptfmt.SourceError, "__0_0.distcp: a link to .*elsewhere, which is outside the folder",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "put the file itself",
    )  # fmt: skip


def test_a_save_that_was_cut_off_is_told(tmp_path: Path) -> None:
    source = save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)})
    (source / ".metadata").unlink()
    refused(
        ckptfmt.SourceError, r"\.metadata: is not there",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "the save was cut off",
    )  # fmt: skip


# ---- pickles ----


def test_metadata_that_calls_a_function_is_refused_and_does_not(tmp_path: Path) -> None:
    source = save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)})
    write_metadata(source, Danger(str(tmp_path / "ran")))
    refused(
        ckptfmt.SourceError, "cannot be read as plain data: it names posix.mkdir",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "runs no code",
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()


def test_a_piece_that_calls_a_function_is_refused_and_does_not(tmp_path: Path) -> None:
    source = save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)})
    data = io.BytesIO()
    torch.save([Danger(str(tmp_path / "ran")), torch.zeros(99)], data)
    (source / "__0_0.distcp").write_bytes(data.getvalue())
    edit(source, _lies("length", data.tell()))
    refused(
        ckptfmt.SourceError, "tensor 'big' cannot be read: ",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_piece_that_is_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    source = save_pieces(tmp_path / "step-1", {"big": ([6, 10], PIECES)})
    plain = io.BytesIO((source / "__0_0.distcp").read_bytes())
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            is_data = info.filename.endswith("data/0")
            new.writestr(info.filename, bytes(100 << 20) if is_data else old.read(info))
    (source / "__0_0.distcp").write_bytes(packed.getvalue())
    edit(source, _lies("length", packed.tell()))
    refused(
        ckptfmt.SourceError, "is packed: a zip bomb",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


CODE = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."
PICKLES = {
    "a builtin": (CODE, "it has the operation STRING"),
    "a builtin, in new clothes": (pickle.dumps(exec), "it names builtins.exec"),
    "a set": (pickle.dumps({1, 2}), "it has the operation EMPTY_SET"),
    "a slot far away": (b"\x80\x02]r\xff\xff\xff\x7f.", "it remembers number 2147483647"),
    "cut short": (b"\x80\x04]", "pickle exhausted|no STOP"),
    "a persistent thing": (b"\x80\x02Pabc\n.", "it has the operation PERSID"),
    "attributes of a class": (b"\x80\x02ctorch\nSize\n}U\x01ab.", "operation SHORT_BINSTRING"),
    "no pickle": (b"hello", "cannot be read"),
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_of_more_than_data_is_refused(what: str) -> None:
    data, message = PICKLES[what]
    refused(
        ckptfmt.SourceError, message,
        lambda: pickles.read_pickle(data, "x", {("torch", "*")}), "runs no code",
    )  # fmt: skip


def test_what_a_pickle_names_is_never_the_thing_itself() -> None:
    record = pickles.read_pickle(pickle.dumps(torch.float32), "x", {("torch", "*")})
    assert issubclass(record, pickles.Record)
    assert record.name == "torch.float32"


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 1000)
    refused(
        ckptfmt.SourceError, "more than 1000 operations",
        lambda: pickles.read_pickle(pickle.dumps([[] for _ in range(1000)]), "x", ()),
    )  # fmt: skip
