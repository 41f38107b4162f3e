"""ServerlessLLM Store: its partitions, ranks, views and lost bytes; and the way back to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckptfmt
from tests.helpers.formats import SLLM, read_sllm, write_sllm
from tests.helpers.handmade import flip
from tests.helpers.models import equal_bits, random_tensor, small_model
from tests.helpers.refusals import refused, refused_at_the_prompt
from tests.sources.test_formats import converted, same

WRITTEN = Path(__file__).parent / "sllm_store"
MODEL = {f"layers.{i}": random_tensor((100, 10 + i), torch.bfloat16, i) for i in range(9)}


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change fields of one entry of the index."""
    path = folder / "tensor_index.json"
    index = json.loads(path.read_text())
    for key, value in changes.items():
        index[name][("offset", "nbytes", "shape", "strides", "dtype").index(key)] = value
    path.write_text(json.dumps(index))


# ---- reading ----


def test_tensors_of_several_partitions_are_found(tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL, limit=6000)
    assert len(list(source.glob("tensor.data_*"))) > 3
    assert same(ckptfmt.load(converted(source, tmp_path)), MODEL)


def test_the_index_can_be_named(tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL)
    (tmp_path / "config.json").write_text("{}")
    report = ckptfmt.convert(source / "tensor_index.json", tmp_path / "x.ckpt")
    assert report.sidecars == ["config.json"]


def test_the_only_rank_of_a_folder_is_taken_with_what_lies_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_sllm(source, MODEL, rank="rank_0")
    (source / "config.json").write_text("{}")
    target = converted(source, tmp_path)
    assert same(ckptfmt.load(target), MODEL)
    assert (target / "config.json").exists()
    assert not (target / "rank_0").exists()


def test_of_several_ranks_one_has_to_be_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for rank in (10, 9, 1, 0):
        write_sllm(source, {"x": torch.full((4,), rank)}, rank=f"rank_{rank}")
    message = "holds rank_0, rank_1, rank_9, rank_10, each a part of the tensors"
    line = refused_at_the_prompt(["convert", source, tmp_path / "x.ckpt"], message)
    assert f"name one: ckptfmt convert {source}/rank_0 TARGET" in line
    target = converted(source / "rank_9", tmp_path)
    assert ckptfmt.load(target)["x"].tolist() == [9, 9, 9, 9]


def test_a_rank_whose_siblings_are_missing_is_not_the_model(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_sllm(source, MODEL, rank="rank_1")
    refused(
        ckptfmt.SourceError, "holds rank_1, each a part",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "rank_1 TARGET",
    )  # fmt: skip


def test_beside_other_weights_one_has_to_be_named(tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL)
    torch.save({"x": torch.ones(1)}, source / "pytorch_model.bin")
    refused(
        ckptfmt.SourceError, "several formats: tensor_index.json, pytorch_model.bin",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "tensor_index.json TARGET",
    )  # fmt: skip
    report = ckptfmt.convert(source / "tensor_index.json", tmp_path / "x.ckpt")
    assert report.left_out == ["pytorch_model.bin"]


def test_a_view_of_a_larger_storage_is_what_the_library_makes_of_it_and_is_told(
    tmp_path: Path,
) -> None:
    base = torch.arange(20, dtype=torch.float32)
    source = write_sllm(tmp_path, {"head": base[:5], "row": base.view(4, 5)[2]})
    with pytest.warns(RuntimeWarning, match="2 tensors, the first 'head', are part of a larger"):
        ckptfmt.convert(source, tmp_path / "x.ckpt")
    found = ckptfmt.load(tmp_path / "x.ckpt")
    assert same(found, read_sllm(source))
    assert found["row"].tolist() == [0, 1, 2, 3, 4], "where it began is not recorded"


def test_an_expanded_tensor_is_written_out(tmp_path: Path) -> None:
    source = write_sllm(tmp_path, {"x": torch.ones(1).expand(4, 3)})
    assert torch.equal(ckptfmt.load(converted(source, tmp_path))["x"], torch.ones(4, 3))


def test_partitions_of_an_earlier_save_are_left_out(tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL)
    (source / "tensor.data_1").write_bytes(b"x" * 100)
    report = ckptfmt.convert(source, tmp_path / "x.ckpt")
    assert report.left_out == ["tensor.data_1"]


# ---- what its writer loses ----


@pytest.mark.parametrize("left", [0, 1, 4096, 8192])
def test_a_data_file_that_lost_its_bytes_is_named(left: int, tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL)
    end = os.path.getsize(source / "tensor.data_0")
    os.truncate(source / "tensor.data_0", left)
    line = refused_at_the_prompt(
        ["convert", source, tmp_path / "x.ckpt"],
        rf"has tensors up to byte {end}, but tensor\.data_0 has {left} bytes",
    )
    assert "writer loses what is still in its buffer" in line


@pytest.mark.parametrize("more", [-8, 8])
def test_a_partition_before_the_last_of_another_size_is_noticed(more: int, tmp_path: Path) -> None:
    """All that follow it would be read from the wrong place. Its writer does not cut old files."""
    source = write_sllm(tmp_path, MODEL, limit=6000)
    os.truncate(source / "tensor.data_1", os.path.getsize(source / "tensor.data_1") + more)
    with (source / "tensor.data_3").open("ab") as stream:
        stream.write(bytes(100))  # so that the sum is no less than it should be
    refused(
        ckptfmt.SourceError, r"tensor\.data_2: begins at byte \d+ by the sizes of the files before",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "loses what is still",
    )  # fmt: skip


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_partition_that_is_missing_is_named(number: int, tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL, limit=6000)
    (source / f"tensor.data_{number}").unlink()
    refused(
        ckptfmt.SourceError, rf"tensor\.data_{number}: is not there",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"), "fetch the missing files",
    )  # fmt: skip


# ---- what its own writer wrote ----


def test_what_its_own_writer_wrote_is_read(tmp_path: Path) -> None:
    """``tests/sources/sllm_store`` is of its release 0.8.0; see ``write_sllm.py``."""
    source = WRITTEN / "store"
    wanted = load_file(WRITTEN / "expected.safetensors")
    assert {str(t.dtype) for t in wanted.values()} == set(map(str, SLLM))
    target = converted(source, tmp_path)
    assert same(ckptfmt.load(target), wanted)
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.info("head").names == ("embed", "head")


def test_what_goes_back_is_what_its_own_writer_writes(tmp_path: Path) -> None:
    """But for the padding, whose bytes that leaves as they were in memory, and strides."""
    written = json.loads((WRITTEN / "store" / "tensor_index.json").read_text())
    ckptfmt.convert(WRITTEN / "store", tmp_path / "x.ckpt")
    ckptfmt.export(tmp_path / "x.ckpt", tmp_path / "out", to="sllm")
    index = json.loads((tmp_path / "out" / "tensor_index.json").read_text())
    theirs = (WRITTEN / "store" / "tensor.data_0").read_bytes()
    ours = (tmp_path / "out" / "tensor.data_0").read_bytes()
    assert len(ours) == len(theirs)
    del written["turned"], index["turned"]
    assert index == written
    for offset, nbytes, *_ in index.values():
        assert ours[offset : offset + nbytes] == theirs[offset : offset + nbytes]


# ---- lies ----

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "beyond the end": ({"offset": 1 << 40}, "has tensors up to byte"),
    "negative": ({"offset": -8}, "not an index of ServerlessLLM Store"),
    "huge": ({"nbytes": 1 << 63}, "not an index of ServerlessLLM Store"),
    "over the storage": ({"shape": [1 << 20, 10]}, "needs 20971520 bytes, the index gives it 2000"),
    "strides": ({"strides": [1 << 40, 1]}, "the index gives it 2000"),
    "few strides": ({"strides": [1]}, "has the shape .* and the strides"),
    "no dtype": ({"dtype": "torch.system"}, "torch.system"),
    "packed dtype": ({"dtype": "torch.float4_e2m1fn_x2"}, "the packed torch.float4"),
    "types": ({"shape": "many"}, "not an index of ServerlessLLM Store"),
    "dimensions": ({"shape": [1] * 65, "strides": [1] * 65}, "65 dimensions"),
}


@pytest.mark.parametrize("what", LIES)
def test_an_index_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    source = write_sllm(tmp_path, MODEL)
    changes, message = LIES[what]
    edit(source, "layers.0", **changes)
    refused(ckptfmt.SourceError, message, lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"))
    assert not (tmp_path / "x.ckpt.partial").exists()


INDEXES = {
    "a name twice": (b'{"x":[0,1,[1],[1],"torch.uint8"],"x":[0,1,[1],[1],"torch.uint8"]}', "twice"),
    "empty": (b"{}", "lists no tensor"),
    "more fields": (b'{"x":[0,1,[1],[1],"torch.uint8",7]}', "not an index"),
    "no JSON": (b"\xff", "not an index"),
    "nested": (b"[" * 100_000, "not an index"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_another_index_is_refused(what: str, tmp_path: Path) -> None:
    data, message = INDEXES[what]
    (tmp_path / "tensor_index.json").write_bytes(data)
    (tmp_path / "tensor.data_0").write_bytes(bytes(8))
    refused(ckptfmt.SourceError, message, lambda: ckptfmt.convert(tmp_path, tmp_path / "x.ckpt"))


# ---- back to it ----


def exported(tensors: dict[str, torch.Tensor], folder: Path, **options: object) -> Path:
    ckptfmt.convert(tensors, folder / "x.ckpt")
    ckptfmt.export(folder / "x.ckpt", folder / "out", to="sllm", **options)
    return folder / "out"


def test_every_dtype_it_can_restore_goes_back(tmp_path: Path) -> None:
    wanted = {
        f"{dtype}.{len(shape)}": random_tensor(shape, dtype, i)
        for i, dtype in enumerate(SLLM)
        for shape in ((3, 5), (7,), (), (2, 0, 3))
    }
    out = exported(wanted, tmp_path)
    assert same(read_sllm(out), wanted)
    target = tmp_path / "again.ckpt"
    ckptfmt.convert(out, target)
    assert same(ckptfmt.load(target), wanted)


def test_partitions_are_bounded_and_tensors_aligned(tmp_path: Path) -> None:
    out = exported(MODEL, tmp_path, shard_size=6000)
    index = json.loads((out / "tensor_index.json").read_text())
    assert all(offset % 8 == 0 for offset, *_ in index.values())
    sizes = [p.stat().st_size for p in sorted(out.glob("tensor.data_*"))]
    assert len(sizes) > 3
    assert max(sizes) <= 6000
    assert same(read_sllm(out), MODEL)


def test_strides_are_those_of_torch(tmp_path: Path) -> None:
    shapes = [(), (1,), (0,), (4, 1, 3), (2, 0, 3), (0, 5), (3, 0), (2, 3, 4, 5)]
    out = exported({str(s): torch.empty(s) for s in shapes}, tmp_path)
    index = json.loads((out / "tensor_index.json").read_text())
    for shape in shapes:
        assert tuple(index[str(shape)][3]) == torch.empty(shape).stride()


def test_tied_tensors_share_their_offset(tmp_path: Path) -> None:
    weight = random_tensor((6, 4), torch.float32)
    out = exported({"embed": weight, "other": torch.ones(2), "head": weight}, tmp_path)
    index = json.loads((out / "tensor_index.json").read_text())
    assert index["embed"] == index["head"]
    assert (out / "tensor.data_0").stat().st_size == 96 + 8


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_a_dtype_it_cannot_restore_is_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    ckptfmt.convert({"x": torch.ones(2), "mask": torch.ones(3).to(dtype)}, tmp_path / "x.ckpt")
    line = refused_at_the_prompt(
        ["export", tmp_path / "x.ckpt", tmp_path / "out", "--to", "sllm"],
        "ServerlessLLM cannot restore .*, which tensor 'mask' has",
    )
    assert "it can restore F16, F32" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ckpt"]


def test_a_checkpoint_that_is_damaged_does_not_go_back(tmp_path: Path) -> None:
    ckptfmt.convert(MODEL, tmp_path / "x.ckpt")
    flip(tmp_path / "x.ckpt" / "part-00000.ckptfmt", 4096 + 10)
    refused(
        ckptfmt.ChecksumError, "tensor 'layers",
        lambda: ckptfmt.export(tmp_path / "x.ckpt", tmp_path / "out", to="sllm"),
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def test_a_partition_above_its_limit_is_refused(tmp_path: Path) -> None:
    ckptfmt.convert(MODEL, tmp_path / "x.ckpt")
    refused(
        ckptfmt.OptionError, "at most 10737418240",
        lambda: ckptfmt.export(
            tmp_path / "x.ckpt", tmp_path / "out", to="sllm", shard_size="11GiB"
        ),
    )  # fmt: skip


def test_sidecars_go_along_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_sllm(source, MODEL)
    for name in ("config.json", "no_split_modules.json", "tied_no_split_modules.json"):
        (source / name).write_text(f'"{name}"')
    target = converted(source, tmp_path)
    ckptfmt.export(target, tmp_path / "out", to="sllm")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in source.iterdir()}
    assert (tmp_path / "out" / "tensor_index.json").read_text() == (
        source / "tensor_index.json"
    ).read_text()
    assert (tmp_path / "out" / "tensor.data_0").read_bytes() == (
        source / "tensor.data_0"
    ).read_bytes()


def test_the_same_model_leaves_by_both_doors(tmp_path: Path) -> None:
    model = {n: t for n, t in small_model().items() if t.dtype in SLLM}
    ckptfmt.convert(model, tmp_path / "x.ckpt")
    ckptfmt.export(tmp_path / "x.ckpt", tmp_path / "a", to="sllm")
    ckptfmt.export(tmp_path / "x.ckpt", tmp_path / "b")
    theirs = load_file(tmp_path / "b" / "model.safetensors")
    assert all(equal_bits(t, theirs[n]) for n, t in read_sllm(tmp_path / "a").items())
