"""Folders that are still plain safetensors: the same calls, the same engine, the same bytes."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckptfmt
from ckptfmt import LoadOptions, SourceError
from ckptfmt.cli import main
from ckptfmt.dtypes import DTYPES
from ckptfmt.extents import MAX_GAP, MirroredExtents
from ckptfmt.index import Extent, Index, PartitionEntry, TensorEntry
from tests.helpers.handmade import write_plain, write_safetensors, write_safetensors_header
from tests.helpers.indexes import MIB
from tests.helpers.models import equal_bits, random_tensor, small_model, write_folder
from tests.helpers.mutations import fuzz_settings
from tests.helpers.refusals import refused, refused_at_the_prompt

Tensors = dict[str, torch.Tensor]

#: Those that torch and safetensors have.
TORCH_DTYPES = [
    getattr(torch, row.torch_name)
    for row in DTYPES.values()
    if row.torch_name and row.in_safetensors and hasattr(torch, row.torch_name)
]
WAYS = {
    "direct": LoadOptions(reads="direct", op_nbytes=MIB),
    "buffered": LoadOptions(reads="buffered"),
    "pread": LoadOptions(reads="direct", io="pread"),
    "auto": LoadOptions(),
}
#: Where the data of a file may begin, modulo a page.
STARTS = [0, 8, 1, 64, 4095, 2050, 4092]


@pytest.fixture(scope="module")
def model() -> Tensors:
    """Every dtype, large and small ones, in an order that leaves few of them aligned; 16 MB."""
    found: Tensors = {}
    for i, dtype in enumerate(TORCH_DTYPES):
        found[f"small.{i}"] = random_tensor((3, 2 * i + 1), dtype, i)
        found[f"odd.{i}"] = random_tensor((1 + i % 3,), torch.uint8, 100 + i)
        found[f"large.{i}"] = random_tensor((50 + i, 1000), dtype, 200 + i)
    found["scalar"] = random_tensor((), torch.float64, 300)
    found["empty"] = torch.empty(0, 3)
    found["big"] = random_tensor((2 * MIB + 5,), torch.float16, 301)
    found["bigger"] = random_tensor((5, MIB), torch.uint8, 302)
    return found


def same(found: Tensors, wanted: Tensors) -> None:
    assert sorted(found) == sorted(wanted)
    assert [n for n in wanted if not equal_bits(found[n], wanted[n])] == []


def stats_of_last() -> ckptfmt.LoadStats:
    found = ckptfmt.load_stats()
    assert found is not None
    return found


@pytest.fixture(scope="module", params=STARTS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
         model: Tensors) -> Path:  # fmt: skip
    """One file, whose data begin anywhere."""
    folder = tmp_path_factory.mktemp("plain")
    return write_plain(folder / "model.safetensors", model, request.param)


# ---- the same bytes ----


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_loaded_bit_for_bit(way: str, file: Path, model: Tensors) -> None:
    options = WAYS[way]
    found = ckptfmt.load(file, options=options)
    same(found, model)
    assert all(t.data_ptr() % t.element_size() == 0 for t in found.values())
    stats = stats_of_last()
    assert stats.nbytes == sum(t.nbytes for t in model.values())
    assert stats.nbytes <= stats.read_nbytes <= stats.nbytes + 200 * 4096
    assert (stats.verified_nbytes, stats.unverified) == (0, "safetensors has no checksums")
    how = stats.files["model.safetensors"]
    if options.reads == "direct":  # what begins at its multiples is read where it stays
        start = 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]
        assert how.direct_nbytes > (stats.nbytes // 3 if start % 2 == 0 else 0)


def test_as_the_library_loads_it(tmp_path: Path) -> None:
    model = {k: t for k, t in small_model().items() if k != "layers.1.mask"}
    save_file(model, tmp_path / "m.safetensors")
    same(ckptfmt.load(tmp_path / "m.safetensors"), load_file(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("max_nbytes", [1, 300_000, 512 * MIB])
def test_streams(max_nbytes: int, file: Path, model: Tensors) -> None:
    with ckptfmt.open(file) as checkpoint:
        found = list(checkpoint.stream(max_nbytes=max_nbytes))
        assert [name for name, _ in found] == list(checkpoint.names)
    same(dict(found), model)


def test_in_other_ways(file: Path, model: Tensors) -> None:
    same(ckptfmt.load(file, mmap=True), model)
    mapped = stats_of_last().files["model.safetensors"]
    assert mapped.mapped_nbytes > 0
    with ckptfmt.open(file) as checkpoint:
        assert (len(checkpoint), checkpoint.nbytes) == (
            len(model), sum(t.nbytes for t in model.values())
        )  # fmt: skip
        for name in list(model)[::7]:
            assert equal_bits(checkpoint[name], model[name])
            wanted = model[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            assert checkpoint.read(name).tobytes() == wanted
        some = [n for n in model if n.startswith("large.1")]
        same(checkpoint.load("large.1*"), {n: model[n] for n in some})
        stats = checkpoint.load_stats()
        assert stats is not None
        gaps = len(some) * (MAX_GAP + 8192)
        assert stats.read_nbytes < sum(model[n].nbytes for n in some) + gaps
        rows = {n: (1, 2) for n, t in model.items() if n.startswith(("small", "big"))}
        rows = {n: r for n, r in rows.items() if model[n].dim() > 1 or n == "big"}
        wanted_rows = {n: t[slice(*rows[n])] if n in rows else t for n, t in model.items()}
        same(checkpoint.load(rows=rows), wanted_rows)
        same(checkpoint.load(rows=rows, mmap=True), wanted_rows)
        cast = checkpoint.load(dtype="fp32")
    floats = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    for name, tensor in model.items():
        wanted_cast = tensor.float() if tensor.dtype in floats else tensor
        if wanted_cast.dtype is torch.float32:
            assert torch.equal(cast[name].nan_to_num(), wanted_cast.nan_to_num())
        else:
            assert equal_bits(cast[name], wanted_cast)


def test_numpy(file: Path, model: Tensors) -> None:
    names = [n for n, t in model.items() if DTYPES_OF[t.dtype].numpy_name]
    found = ckptfmt.load(file, "cpu", names, framework="numpy")
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: model[n].contiguous().view(-1).view(torch.uint8).numpy().tobytes() if
        model[n].numel() else b"" for n in names
    }  # fmt: skip
    assert all(array.flags.aligned for array in found.values())


DTYPES_OF = {
    getattr(torch, row.torch_name): row
    for row in DTYPES.values()
    if row.torch_name and hasattr(torch, row.torch_name)
}


@pytest.mark.parametrize("way", WAYS)
def test_filling_in_place(way: str, file: Path, model: Tensors) -> None:
    """Dense and strided tensors, and an array."""
    targets: dict[str, torch.Tensor | np.ndarray] = {
        n: torch.empty_like(t) for n, t in model.items()
    }
    targets["bigger"] = np.zeros((5, MIB), np.uint8)
    targets["large.0"] = torch.zeros(1000, 50, dtype=model["large.0"].dtype).t()
    with ckptfmt.open(file, options=WAYS[way]) as checkpoint:
        checkpoint.load_into(targets)
    found = {n: torch.as_tensor(t) for n, t in targets.items()}
    same({n: t.contiguous() for n, t in found.items()}, model)


def test_tensors_that_the_target_ties(tmp_path: Path) -> None:
    one = random_tensor((3000, 1000), torch.float32, 1)
    save_file({"a": one, "b": one.clone(), "c": one + 1}, tmp_path / "m.safetensors")
    with ckptfmt.open(tmp_path / "m.safetensors") as checkpoint:
        tied = torch.zeros(3000, 1000)
        checkpoint.load_into({"a": tied, "b": tied}, strict=False)
        assert equal_bits(tied, one)
        refused(ckptfmt.LoadMismatchError, "a and c share memory in the target",
                lambda: checkpoint.load_into({"a": tied, "c": tied}, strict=False))  # fmt: skip


# ---- memory ----


def test_neighbours_outlive_each_other(file: Path, model: Tensors) -> None:
    """They share pages: what dies gives back those that were its alone."""
    for options in (WAYS["direct"], WAYS["buffered"]):
        found = ckptfmt.load(file, options=options)
        names = list(found)
        for name in names[::2]:
            del found[name]
        gc.collect()
        same(found, {n: model[n] for n in names[1::2]})
        for tensor in found.values():
            tensor.view(-1).view(torch.uint8).zero_()
        same(ckptfmt.load(file), model)  # the file never changes


def test_a_large_tensor_gives_its_pages_back(tmp_path: Path) -> None:
    def anonymous_nbytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    tensors = {f"t{i}": random_tensor((8 * MIB,), torch.uint8, i) for i in range(4)}
    write_plain(tmp_path / "m.safetensors", tensors, 8)
    found = ckptfmt.load(tmp_path / "m.safetensors")
    gc.collect()
    before = anonymous_nbytes()
    del found["t1"], found["t2"]
    assert before - anonymous_nbytes() > 15 * MIB
    same(found, {n: tensors[n] for n in ("t0", "t3")})


# ---- folders ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, their index, sidecars."""
    return write_folder(tmp_path / "org" / "model", small_model(), shards=3)


def test_shards_are_one_checkpoint(folder: Path) -> None:
    model = small_model()
    index = folder / "model.safetensors.index.json"
    for path in (folder, str(folder), index):
        same(ckptfmt.load(path), model)
        stats = stats_of_last()
        assert set(stats.files) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    with ckptfmt.open(folder) as checkpoint:
        assert checkpoint.metadata == {"format": "pt"}
        assert "plain" not in repr(checkpoint)
        assert [p.file for p in checkpoint.index.partitions] == sorted(
            p.name for p in folder.glob("*.safetensors")
        )
    index.unlink()
    same(ckptfmt.load(folder), model)
    one = folder / "model-00002-of-00003.safetensors"
    same(ckptfmt.load(one), load_file(one))
    assert ckptfmt.Checkpoint(folder).names == checkpoint.names


def test_links_into_a_hub_s_cache(folder: Path, tmp_path: Path) -> None:
    blobs, view = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    view.mkdir()
    for number, path in enumerate(folder.iterdir()):
        if path.is_file():
            shutil.move(path, blobs / str(number))
            (view / path.name).symlink_to(blobs / str(number))
    same(ckptfmt.load(view), small_model())


def test_a_checkpoint_beside_weights_is_the_checkpoint(folder: Path) -> None:
    target = folder.parent / "x.ckpt"
    ckptfmt.convert(folder, target)
    shutil.copy(folder / "model-00001-of-00003.safetensors", target)
    ckptfmt.load(target)
    assert not stats_of_last().unverified
    os.remove(target / "model-00001-of-00003.safetensors")
    os.remove(target / "ckptfmt.json")
    refused(ckptfmt.FormatError, "not a ckptfmt checkpoint", lambda: ckptfmt.load(target))


def test_a_file_without_tensors(tmp_path: Path) -> None:
    write_plain(tmp_path / "m.safetensors", {})
    assert ckptfmt.load(tmp_path) == {}
    assert ckptfmt.load(tmp_path, mmap=True) == {}
    write_plain(tmp_path / "m.safetensors", {"empty": torch.empty(3, 0)}, 5)
    same(ckptfmt.load(tmp_path), {"empty": torch.empty(3, 0)})


def test_where_the_system_makes_no_file_of_holes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    for name in ("memfd_create", "truncate"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refuse)
            same(ckptfmt.load(folder), small_model())
    _cut_short(folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refuse)
        refused(SourceError, "not a valid safetensors file", lambda: ckptfmt.load(folder))


def test_what_was_opened_stays(folder: Path) -> None:
    checkpoint = ckptfmt.open(folder)
    shutil.rmtree(folder)
    same(checkpoint.load(), small_model())
    found = checkpoint.load(mmap=True)
    checkpoint.close()
    same(found, small_model())
    refused(ckptfmt.ClosedError, "closed", checkpoint.load)


# ---- what is wrong ----


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: os.remove(folder / name)


def _cut_short(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def _longer(folder: Path) -> None:
    with (folder / "model-00002-of-00003.safetensors").open("ab") as stream:
        stream.write(b"\0")


def _lost(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lost"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))


def _twice(folder: Path) -> None:
    shutil.copy(folder / "model-00001-of-00003.safetensors",
                folder / "model-00002-of-00003.safetensors")  # fmt: skip


def _lies(header: str) -> Callable[[Path], object]:
    return lambda folder: write_safetensors_header(
        folder / "model-00001-of-00003.safetensors", header.encode(), bytes(24)
    )


def _other_dtype(folder: Path) -> None:
    write_safetensors(folder / "model-00001-of-00003.safetensors", {"x": ("F7", [3], b"abc")})


def _zero_bytes(folder: Path) -> None:
    os.truncate(folder / "model-00001-of-00003.safetensors", 0)


def _web_page(folder: Path) -> None:
    (folder / "model-00001-of-00003.safetensors").write_text("<!DOCTYPE html><title>404</title>")


def _several(folder: Path) -> None:
    os.remove(folder / "model.safetensors.index.json")
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "other.safetensors")


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "shard missing": (_remove("model-00002-of-00003.safetensors"),
                      "names 'model-00002-of-00003.safetensors', which is not there", "fetch"),
    "cut short": (_cut_short, "model-00002-of-00003.safetensors: not a valid", "fetch it again"),
    "longer": (_longer, "not a valid safetensors file", "fetch it again"),
    "zero bytes": (_zero_bytes, "not a valid safetensors file", "fetch it again"),
    "a web page": (_web_page, "not a valid safetensors file", "fetch it again"),
    "tensor lost": (_lost, "promises tensor 'lost'", "different versions"),
    "twice": (_twice, "is also in model-00001-of-00003.safetensors", "mixes two checkpoints"),
    "past the end": (_lies('{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
                     "not a valid", "fetch"),
    "other size": (_lies('{"x":{"dtype":"F32","shape":[5],"data_offsets":[0,24]}}'),
                   "not a valid", ""),
    "a hole": (_lies('{"x":{"dtype":"F32","shape":[5],"data_offsets":[4,24]}}'), "not a valid", ""),
    "key twice": (_lies('{"x":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},'
                        '"x":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'),
                  "'x' stands twice", ""),
    "another dtype": (_other_dtype, "F7", ""),
    "several sets": (_several, "cannot tell which files belong together: model-0", "name one"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_folder_is_refused(what: str, folder: Path) -> None:
    change, message, hint = WRONG[what]
    change(folder)
    before = len(os.listdir("/proc/self/fd"))
    refused(SourceError, message, lambda: ckptfmt.load(folder), hint)
    refused(SourceError, message, lambda: ckptfmt.open(folder), hint)
    assert len(os.listdir("/proc/self/fd")) == before
    refused_at_the_prompt(["load", folder], message)


def test_a_file_that_shrinks_while_it_is_open(folder: Path) -> None:
    with ckptfmt.open(folder) as checkpoint:
        for path in folder.glob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
        refused(ckptfmt.FormatError, "the file ended while bytes", checkpoint.load)


def test_what_needs_checksums_is_refused(folder: Path, tmp_path: Path) -> None:
    hint = "ckptfmt convert .*model .*model.ckpt"
    message = "safetensors has no checksums"
    with ckptfmt.open(folder) as checkpoint:
        for call in (
            lambda: checkpoint.load(verify=True), lambda: checkpoint.stream(verify=True),
            lambda: checkpoint.load_into({}, verify=True),
            lambda: checkpoint.load(verify=True, mmap=True),
            lambda: checkpoint.crc32c("embed.weight"),
        ):  # fmt: skip
            refused(ckptfmt.OptionError, message, call, hint)
        for verify in (None, False):
            same(checkpoint.load(verify=verify), small_model())
    target = tmp_path / "out"
    no = "not a ckptfmt checkpoint"
    refused(ckptfmt.FormatError, no, lambda: ckptfmt.export(folder, target), hint)
    refused(ckptfmt.FormatError, no, lambda: ckptfmt.verify(folder), hint)
    one = folder / "model-00001-of-00003.safetensors"
    refused(ckptfmt.FormatError, "not a folder", lambda: ckptfmt.verify(one))
    assert not target.exists()
    refused_at_the_prompt(["verify", folder], no)
    refused_at_the_prompt(["export", folder, target], no)
    refused_at_the_prompt(["bench", folder], "plain safetensors, no ckptfmt checkpoint")
    for ranks in ({"rank": 1, "tensor_parallel": 2}, {"rank": 0, "tensor_parallel": 2}):
        refused(
            ckptfmt.OptionError, "was not cut for ranks",
            lambda ranks=ranks: ckptfmt.load(folder, **ranks), "--tensor-parallel 2",
        )  # fmt: skip


def test_it_is_said_that_nothing_was_verified(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ckptfmt"), ckptfmt.open(folder) as checkpoint:
        checkpoint.load()
        dict(checkpoint.stream())
    assert [r.levelname for r in caplog.records] == ["INFO", "INFO"]
    assert all("unverified: safetensors has no checksums" in r.message for r in caplog.records)
    result = CliRunner().invoke(main, ["load", str(folder), "--framework", "numpy",
                                       "--names", "layers.0.*"])  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "unverified: safetensors has no checksums" in result.output


def test_inspect_shows_it(folder: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert "safetensors, not converted: no checksums" in result.output
    assert "layers.0.attn.weight" in result.stdout
    told = json.loads(CliRunner().invoke(main, ["inspect", str(folder), "--json"]).stdout)
    assert (told["format"], told["id"], len(told["tensors"])) == ("safetensors", "", 7)


# ---- any choice of tensors anywhere ----


@fuzz_settings
@given(data=st.data())
def test_any_choice_lies_where_it_is_said_to(data: st.DataObject) -> None:
    """Reads are carried out on files of noise by slicing; each wanted tensor is then compared."""
    sizes = st.one_of(st.integers(0, 50), st.integers(0, 200_000), st.just(3 * MIB))
    dtypes = st.sampled_from(["U8", "BF16", "F32", "F64"])
    files = data.draw(st.lists(st.lists(st.tuples(dtypes, sizes), max_size=8), max_size=3))
    entries: list[TensorEntry] = []
    ends = []
    for number, tensors in enumerate(files):
        at = data.draw(st.integers(8, 10_000))
        for dtype, count in tensors:
            nbytes = count // 8 * DTYPES[dtype].bits // 8
            extents = (Extent(number, at, nbytes),) if nbytes else ()
            entries.append(TensorEntry((f"t{len(entries)}",), dtype, (count // 8,), extents))
            at += nbytes
        ends.append(at)
    index = Index("safetensors", (0, 0), (), "", 1, MIB,
                  tuple(PartitionEntry(str(i), 0, 0) for i in range(len(files))), tuple(entries))
    steps = np.array([DTYPES[e.dtype].bits // 8 for e in entries], np.int64)
    extents = MirroredExtents.of_files(index, np.array(ends, np.int64), steps)
    noise = [np.random.default_rng(i).integers(0, 256, end, np.uint8)
             for i, end in enumerate(ends)]  # fmt: skip
    wanted = data.draw(st.sets(st.sampled_from(range(len(entries))))) if entries else set()
    in_place = data.draw(st.booleans())
    mine = extents.of_tensors(sorted(wanted))
    reach = extents.reach(mine, in_place=in_place)
    memory = np.zeros(reach.nbytes, np.uint8)
    touched = np.zeros(reach.nbytes, np.uint8)
    read = reach.extents
    for i, address in zip(reach.chosen.tolist(), reach.addresses.tolist(), strict=True):
        offset, nbytes = int(read.offset[i]), int(read.nbytes[i])
        content = noise[int(read.partition[i])][offset : offset + nbytes]
        assert len(content) == nbytes > 0
        assert nbytes <= read.span[i]
        memory[address : address + nbytes] = content
        touched[address : address + int(read.span[i])] += 1
    assert touched.max(initial=0) <= 1
    for i, at in zip(mine.tolist(), reach.at.tolist(), strict=True):
        offset, nbytes = int(extents.offset[i]), int(extents.nbytes[i])
        expected = noise[int(extents.partition[i])][offset : offset + nbytes]
        assert np.array_equal(memory[at : at + nbytes], expected)
        step = int(extents.step[i])
        assert at % step == 0 or not in_place
        if not in_place or offset % step == 0:
            assert at % 4096 == offset % 4096
    starts = list(zip(read.partition.tolist(), read.offset.tolist(), strict=True))
    assert starts == sorted(starts)
    least = int(extents.nbytes[mine].sum())
    assert least <= int(read.nbytes.sum()) <= least + len(mine) * (MAX_GAP + 2 * 4096)
