"""Checkpoints of ranks: cut, loaded by each rank, joined, cut again; states of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckptfmt
from ckptfmt.saving import join_ranks
from ckptfmt.topology import Piece
from tests.helpers.models import equal_bits, random_tensor, write_folder

RULES = {
    "*.q.weight": "colwise",
    "*.q.bias": "colwise",
    "*.o.*": "rowwise",
    "*.gate_up.weight": "packed_colwise",
    "*.qkv.weight": {"kind": "packed_colwise", "blocks": [512, 256, 256]},
    "embed": "colwise",
    "odd": "colwise",
}
Tensors = dict[str, torch.Tensor]


def model() -> Tensors:
    """Weights of each kind: of several blocks of checksums, and of a few bytes."""
    bf16, f32 = torch.bfloat16, torch.float32
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "embed": ((1024, 600), bf16),
        "a.q.weight": ((512, 1024), f32),
        "a.q.bias": ((512,), f32),
        "a.o.weight": ((600, 1024), f32),
        "a.o.bias": ((600,), f32),
        "a.gate_up.weight": ((2048, 300), bf16),
        "a.qkv.weight": ((1024, 130), bf16),
        "b.o.weight": ((7, 8), torch.float8_e4m3fn),
        "norm": ((600,), bf16),
        "odd": ((7, 3), f32),
        "scalar": ((), f32),
        "empty": ((0, 4), f32),
    }
    return {
        name: random_tensor(shape, dtype, seed)
        for seed, (name, (shape, dtype)) in enumerate(shapes.items())
    }


SOURCE = model()
#: How each tensor is cut: the dimension and its blocks.
CUTS = {
    "embed": (0, [1024]), "a.q.weight": (0, [512]), "a.q.bias": (0, [512]),
    "a.o.weight": (1, [1024]), "a.gate_up.weight": (0, [1024, 1024]),
    "a.qkv.weight": (0, [512, 256, 256]), "b.o.weight": (1, [8]),
}  # fmt: skip


def expected(ranks: int, rank: int) -> Tensors:
    """What a rank has, by torch alone."""
    found = dict(SOURCE)
    for name, (dim, blocks) in CUTS.items():
        parts = [b.chunk(ranks, dim)[rank] for b in _bytes(SOURCE[name]).split(blocks, dim)]
        found[name] = torch.cat(parts, dim).view(SOURCE[name].dtype)
    return found


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def assert_same(found: Any, wanted: Tensors) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert equal_bits(found[name], tensor), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of safetensors, with a configuration beside it."""
    return write_folder(tmp_path_factory.mktemp("source") / "model", SOURCE)


@pytest.fixture(scope="module")
def cut(folder: Path) -> Path:
    """The same, cut for two ranks, in small partitions."""
    target = folder.parent / "cut.ckpt"
    report = ckptfmt.convert(
        folder, target, tensor_parallel=2, tensor_parallel_plan=RULES, partition_size="2MiB"
    )
    assert report.cutting is not None
    assert (report.cutting.ranks, report.cutting.cut) == (2, len(CUTS))
    assert {why: sorted(names) for why, names in report.cutting.whole.items()} == {
        "no rule has their names": ["empty", "norm", "scalar"],
        "vectors of row-wise modules, which every rank has": ["a.o.bias"],
        "not divisible by 2": ["odd"],
    }
    return target


# ---- loading at the same degree ----


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_loads_its_pieces(cut: Path, rank: int) -> None:
    assert_same(ckptfmt.load(cut, rank=rank, tensor_parallel=2), expected(2, rank))
    with ckptfmt.open(cut, rank=rank) as checkpoint:
        assert set(checkpoint) == set(SOURCE)
        assert_same(checkpoint.load(mmap=True, verify=True), expected(2, rank))
        assert_same(dict(checkpoint.stream(max_nbytes=1 << 20)), expected(2, rank))
        target = {name: torch.zeros_like(t) for name, t in expected(2, rank).items()}
        checkpoint.load_into(target)
        assert_same(target, expected(2, rank))
        assert checkpoint.nbytes == sum(t.nbytes for t in target.values())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_only_its_own_and_what_is_shared(cut: Path, rank: int) -> None:
    ckptfmt.load(cut, rank=rank, tensor_parallel=2)
    stats = ckptfmt.load_stats()
    assert stats is not None
    wanted = sum(t.nbytes for t in expected(2, rank).values())
    assert stats.nbytes == wanted == stats.verified_nbytes
    assert stats.read_nbytes <= wanted + len(SOURCE) * 4096
    index = json.loads((cut / "ckptfmt.json").read_bytes())
    others = {
        index["partitions"][e[0]]["file"]
        for t in index["tensors"] if t.get("rank") == 1 - rank for e in t["extents"]
    }  # fmt: skip
    assert others
    assert not others & set(stats.files)


def test_a_piece_tells_where_it_is(cut: Path) -> None:
    with ckptfmt.open(cut, rank=1, tensor_parallel=2) as checkpoint:
        assert checkpoint.cut_of("embed") == Piece(0, 512, 1024, (1024, 600))
        assert checkpoint.cut_of("a.o.weight") == Piece(1, 512, 1024, (600, 1024))
        assert checkpoint.cut_of("a.gate_up.weight") is None
        assert checkpoint.cut_of("norm") is None
        assert checkpoint.info("embed").shape == (512, 600)
        assert checkpoint.info("embed").rank == 1
    with ckptfmt.open(cut) as checkpoint:
        assert checkpoint.cut_of("embed") is None


# ---- joined, and at another degree ----


def test_whole_tensors_are_joined(cut: Path) -> None:
    assert_same(ckptfmt.load(cut), SOURCE)
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.engine_reason == "put together of pieces for another number of ranks"
    assert stats.nbytes == sum(t.nbytes for t in SOURCE.values())
    assert stats.verified_nbytes >= stats.nbytes
    assert_same(ckptfmt.load(cut, rank=0, tensor_parallel=1), SOURCE)


@pytest.mark.parametrize("ranks", [4, 8])
def test_pieces_are_cut_again(cut: Path, ranks: int) -> None:
    for rank in {0, 1, ranks - 1}:
        assert_same(ckptfmt.load(cut, rank=rank, tensor_parallel=ranks), expected(ranks, rank))
    with ckptfmt.open(cut, rank=3, tensor_parallel=ranks) as checkpoint:
        share = 1024 // ranks
        assert checkpoint.cut_of("embed") == Piece(0, 3 * share, 4 * share, (1024, 600))
        assert checkpoint.cut_of("a.qkv.weight") is None
        assert checkpoint.cut_of("norm") is None


def test_every_way_of_loading_joins(cut: Path) -> None:
    with ckptfmt.open(cut) as checkpoint:
        assert len(checkpoint) == len(SOURCE)
        assert checkpoint.nbytes == sum(t.nbytes for t in SOURCE.values())
        assert_same(dict(checkpoint.stream(max_nbytes=1 << 20)), SOURCE)
        assert equal_bits(checkpoint["a.o.weight"], SOURCE["a.o.weight"])
        target = {name: torch.zeros_like(t) for name, t in SOURCE.items()}
        checkpoint.load_into(target)
        assert_same(target, SOURCE)
        found = checkpoint.load(["a.*", "norm"], dtype="fp32")
        wanted = {n: t.float() for n, t in SOURCE.items() if n.startswith("a.") or n == "norm"}
        assert {n: t.dtype for n, t in found.items()} == dict.fromkeys(wanted, torch.float32)
        for name, tensor in wanted.items():
            assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num()), name
        plain = checkpoint.load(["a.o.weight"], framework="numpy")["a.o.weight"]
        assert plain.tobytes() == SOURCE["a.o.weight"].numpy().tobytes()
        name = "a.gate_up.weight"
        data = bytes(checkpoint.read(name))
        assert data == SOURCE[name].view(torch.uint8).numpy().tobytes()
        from ckptfmt._core import crc32c

        assert checkpoint.crc32c(name) == crc32c(data)
        seen = []
        checkpoint.load(progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (checkpoint.nbytes, checkpoint.nbytes)
        with pytest.raises(ckptfmt.OptionError, match="load as it was cut"):
            checkpoint.load(mmap=True)
    with pytest.raises(ckptfmt.ClosedError):
        checkpoint.load()


@pytest.mark.parametrize(
    "options", [{}, {"rank": 1}, {"rank": 3, "tensor_parallel": 4}], ids=["whole", "own", "again"]
)
def test_some_rows_of_pieces(cut: Path, options: Any) -> None:
    """Of those of another rank that have the same name, none are taken."""
    wanted = SOURCE if not options else expected(options.get("tensor_parallel", 2), options["rank"])
    rows = {"embed": (100, 131), "a.o.weight": (599, 600), "norm": (0, 0)}
    found = ckptfmt.load(cut, names=[*rows, "odd"], rows=rows, **options)
    assert_same(found, {"odd": wanted["odd"], **{n: wanted[n][a:b] for n, (a, b) in rows.items()}})
    with ckptfmt.open(cut, **options) as checkpoint:
        assert_same(dict(checkpoint.stream(list(rows), rows=rows)),
                    {n: wanted[n][a:b] for n, (a, b) in rows.items()})  # fmt: skip
        with pytest.raises(ckptfmt.OptionError, match=r"0\.\.2000, it has rows"):
            checkpoint.load(["embed"], rows={"embed": (0, 2000)})


def test_tied_names_stay_tied(tmp_path: Path) -> None:
    shared = random_tensor((8, 4), torch.float32)
    ckptfmt.convert(
        {"embed": shared, "head": shared}, tmp_path / "t", tensor_parallel=2,
        tensor_parallel_plan={"embed": "colwise", "head": "colwise"},
    )  # fmt: skip
    for options in ({}, {"rank": 1}, {"rank": 3, "tensor_parallel": 4}):
        found = ckptfmt.load(tmp_path / "t", **options)
        assert found["embed"].data_ptr() == found["head"].data_ptr()
    assert torch.equal(ckptfmt.load(tmp_path / "t")["head"], shared)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tensor_parallel": 2}, ckptfmt.OptionError, "tensor_parallel is 2 and no rank is named"),
        ({"rank": 2}, ckptfmt.OptionError, "rank is 2, expected 0 to 1 of 2"),
        ({"rank": -1}, ckptfmt.OptionError, "rank is -1, expected 0 to 1 of 2"),
        ({"rank": 0, "tensor_parallel": 3}, ckptfmt.OptionError, "cannot be cut for 3 ranks"),
        ({"rank": 0, "tensor_parallel": 0}, ckptfmt.OptionError, "is 0, expected at least 1"),
    ],
)
def test_ranks_that_there_are_not(cut: Path, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ckptfmt.load(cut, **options)


def test_a_checkpoint_that_was_not_cut_has_one_rank(folder: Path, tmp_path: Path) -> None:
    ckptfmt.convert(folder, tmp_path / "whole")
    assert_same(ckptfmt.load(tmp_path / "whole", rank=0, tensor_parallel=1), SOURCE)
    with pytest.raises(ckptfmt.OptionError, match="was not cut for ranks") as caught:
        ckptfmt.load(tmp_path / "whole", rank=0, tensor_parallel=2)
    assert "--tensor-parallel 2" in str(caught.value.hint)


# ---- as a source ----


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def tensors_of(path: Path) -> Any:
    index = json.loads((path / "ckptfmt.json").read_bytes())
    return index.get("topology"), index["tensors"]


def test_it_is_kept_joined_and_cut_again(folder: Path, cut: Path, tmp_path: Path) -> None:
    ckptfmt.convert(cut, tmp_path / "kept", partition_size="2MiB")
    assert tensors_of(tmp_path / "kept") == tensors_of(cut)
    for rank in (0, 1):
        assert_same(ckptfmt.load(tmp_path / "kept", rank=rank), expected(2, rank))
    ckptfmt.convert(cut, tmp_path / "joined", tensor_parallel=1)
    assert json.loads((tmp_path / "joined" / "ckptfmt.json").read_bytes())["requires"] == []
    assert_same(ckptfmt.load(tmp_path / "joined"), SOURCE)
    ckptfmt.convert(cut, tmp_path / "four", tensor_parallel=4)
    ckptfmt.convert(folder, tmp_path / "direct", tensor_parallel=4, tensor_parallel_plan=RULES)
    for rank in range(4):
        assert_same(ckptfmt.load(tmp_path / "four", rank=rank), expected(4, rank))
        assert_same(ckptfmt.load(tmp_path / "direct", rank=rank), expected(4, rank))
    assert_same(ckptfmt.load(tmp_path / "four"), SOURCE)
    for name in ("kept", "joined", "four", "direct"):
        report = ckptfmt.verify(tmp_path / name, against=folder)
        assert (report.problems, report.compared) == ([], len(SOURCE)), name
        report = ckptfmt.verify(tmp_path / name, against=cut)
        assert (report.problems, report.compared) == ([], len(SOURCE)), name


def test_what_cannot_be_asked_of_it_is_refused(cut: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    with pytest.raises(ckptfmt.OptionError, match="cannot be cut for 3 ranks: dimension"):
        ckptfmt.convert(cut, target, tensor_parallel=3)
    with pytest.raises(ckptfmt.OptionError, match="is cut again as it was") as caught:
        ckptfmt.convert(cut, target, tensor_parallel=2, tensor_parallel_plan=RULES)
    assert "--tensor-parallel 1" in str(caught.value.hint)
    with pytest.raises(ckptfmt.OptionError, match="does not say for how many"):
        ckptfmt.convert(cut, target, tensor_parallel_plan=RULES)
    with pytest.raises(ckptfmt.OptionError, match="tensor_parallel is 0, expected 1 to 65536"):
        ckptfmt.convert(cut, target, tensor_parallel=0)
    assert os.listdir(tmp_path) == []


def test_casting_and_filters_go_with_cutting(folder: Path, tmp_path: Path) -> None:
    ckptfmt.convert(
        folder, tmp_path / "t", tensor_parallel=2, tensor_parallel_plan=RULES, dtype="bf16",
        exclude=["embed", "b.*"],
    )  # fmt: skip
    found = ckptfmt.load(tmp_path / "t", rank=1)
    assert "embed" not in found
    wanted = expected(2, 1)["a.o.weight"].bfloat16()
    assert torch.equal(found["a.o.weight"].nan_to_num(), wanted.nan_to_num())
    report = ckptfmt.verify(tmp_path / "t", against=folder)
    assert (report.problems, report.compared) == ([], len(SOURCE) - 2)


def test_export_joins(cut: Path, tmp_path: Path) -> None:
    ckptfmt.export(cut, tmp_path / "back")
    assert_same(load_file(tmp_path / "back" / "model.safetensors"), SOURCE)


def test_damage_of_one_rank_is_told(cut: Path, tmp_path: Path, folder: Path) -> None:
    ckptfmt.convert(cut, tmp_path / "t")
    with ckptfmt.open(tmp_path / "t", rank=1) as checkpoint:
        extent = checkpoint.info("a.o.weight").extents[0]
        file = checkpoint.index.partitions[extent.partition].file
    path = tmp_path / "t" / file
    data = bytearray(path.read_bytes())
    data[extent.offset + 5] ^= 1
    path.write_bytes(data)
    assert_same(ckptfmt.load(tmp_path / "t", rank=0), expected(2, 0))
    for options in ({"rank": 1}, {}, {"rank": 3, "tensor_parallel": 4}):
        with pytest.raises(ckptfmt.ChecksumError) as caught:
            ckptfmt.load(tmp_path / "t", **options)
        assert (caught.value.tensor, caught.value.offset) == ("a.o.weight", extent.offset)
    (problem,) = ckptfmt.verify(tmp_path / "t").problems
    assert (problem.file, problem.tensor) == (file, "a.o.weight")


def test_an_unfinished_one_is_taken_up(folder: Path, cut: Path, tmp_path: Path) -> None:
    """And not with other rules, under which partitions would hold other bytes."""
    options: dict[str, Any] = {"tensor_parallel": 2, "partition_size": "2MiB", "workers": 1}
    target = tmp_path / "cut.ckpt"

    class EnoughError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        state = tmp_path / "cut.ckpt.partial" / "resume.json"
        if state.exists() and len(json.loads(state.read_bytes())["done"]) > 1:
            raise EnoughError

    with pytest.raises(EnoughError):
        ckptfmt.convert(folder, target, tensor_parallel_plan=RULES, progress=stop, **options)
    other = {**RULES, "embed": "replicate"}
    with pytest.raises(ckptfmt.TargetExistsError, match="cannot be resumed"):
        ckptfmt.convert(folder, target, tensor_parallel_plan=other, resume=True, **options)
    report = ckptfmt.convert(folder, target, tensor_parallel_plan=RULES, resume=True, **options)
    assert report.resumed
    assert files_of(target) == files_of(cut)


# ---- rules ----


def test_rules_come_from_a_file(folder: Path, cut: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(RULES))
    report = ckptfmt.convert(
        folder, tmp_path / "cut.ckpt", tensor_parallel=2, tensor_parallel_plan=plan,
        partition_size="2MiB",
    )  # fmt: skip
    assert files_of(tmp_path / "cut.ckpt") == files_of(cut)
    assert report.checkpoint_id == json.loads((cut / "ckptfmt.json").read_bytes())["id"]
    for text, message in (("[1]", "holds a list"), ("{", "cannot be read as JSON")):
        plan.write_text(text)
        with pytest.raises(ckptfmt.OptionError, match=message):
            ckptfmt.convert(folder, tmp_path / "t", tensor_parallel=2, tensor_parallel_plan=plan)
    with pytest.raises(ckptfmt.FileError, match="cannot be read"):
        ckptfmt.convert(folder, tmp_path / "t", tensor_parallel=2, tensor_parallel_plan="no.json")


def test_without_rules_the_model_s_configuration_is_needed(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ckptfmt.SourceError, match=r"no config\.json beside it") as caught:
        ckptfmt.convert(SOURCE, tmp_path / "t", tensor_parallel=2)
    assert "--tensor-parallel-plan" in str(caught.value.hint)
    assert os.listdir(tmp_path) == []


# ---- states ----


@pytest.fixture
def states(tmp_path: Path) -> Callable[..., list[Path]]:
    """A checkpoint of each rank."""

    def make(*ranks: Tensors) -> list[Path]:
        paths = [tmp_path / f"rank{i}" for i in range(len(ranks))]
        for path, tensors in zip(paths, ranks, strict=True):
            ckptfmt.save_dict(tensors, path)
        return paths

    return make


def state(rank: int) -> Tensors:
    """What an engine has on a rank: fused weights, equal norms, a tensor that only one has."""
    own = {"only": random_tensor((3,), torch.float32, 9)} if rank else {}
    tied = random_tensor((64, 8), torch.bfloat16, 20 + rank)
    return {
        "qkv": random_tensor((1000, 700), torch.bfloat16, rank), "norm": SOURCE["norm"],
        "embed": tied, "head": tied, "large": SOURCE["a.q.weight"], "shape": torch.zeros(3 + rank),
        **own,
    }  # fmt: skip


def test_states_of_ranks_become_one_checkpoint(
    states: Callable[..., list[Path]], tmp_path: Path
) -> None:
    paths = states(state(0), state(1))
    (paths[0] / "config.json").write_text("{}")
    report = join_ranks(paths, tmp_path / "t", layout={"engine": "vllm 0.32"})
    assert report.checkpoint_id
    assert ckptfmt.verify(tmp_path / "t").problems == []
    for rank in (0, 1):
        with ckptfmt.open(tmp_path / "t", rank=rank, tensor_parallel=2) as checkpoint:
            topology = checkpoint.index.topology
            assert topology is not None
            assert (topology.kind, topology.layout) == ("state", {"engine": "vllm 0.32"})
            found = checkpoint.load()
            assert_same(found, state(rank))
            assert found["embed"].data_ptr() == found["head"].data_ptr()
            assert checkpoint.cut_of("qkv") is None
    shared = {
        name
        for t in tensors_of(tmp_path / "t")[1] if "rank" not in t for name in t["names"]
    }  # fmt: skip
    assert shared == {"norm", "large"}
    assert (tmp_path / "t" / "config.json").exists()


def test_states_are_for_as_many_ranks_as_stored_them(
    states: Callable[..., list[Path]], tmp_path: Path
) -> None:
    target = tmp_path / "t"
    join_ranks(states(state(0), state(1)), target, layout={})
    with pytest.raises(ckptfmt.LoadMismatchError, match="state of 2 ranks, 4 are wanted"):
        ckptfmt.open(target, rank=0, tensor_parallel=4)
    with pytest.raises(ckptfmt.LoadMismatchError, match="state of 2 ranks, 1 are wanted"):
        ckptfmt.open(target, rank=0, tensor_parallel=1)
    with pytest.raises(ckptfmt.OptionError, match="holds the state of 2 ranks"):
        ckptfmt.open(target)
    with pytest.raises(ckptfmt.OptionError, match="holds the state of 2 ranks, which no other"):
        ckptfmt.export(target, tmp_path / "back")
    with pytest.raises(ckptfmt.OptionError, match="cannot be cut for 4"):
        ckptfmt.convert(target, tmp_path / "again", tensor_parallel=4)
    ckptfmt.convert(target, tmp_path / "again", dtype="fp32")
    found = ckptfmt.load(tmp_path / "again", rank=1)
    assert found["qkv"].dtype is torch.float32
    report = ckptfmt.verify(tmp_path / "again", against=target)
    assert report.problems == []
    assert report.compared == 2 + 2 * 4 + 1  # shared names, each rank's, the one that has more
    with pytest.raises(ckptfmt.OptionError, match="is of ranks itself"):
        join_ranks([target], tmp_path / "twice", layout={})
    with pytest.raises(ckptfmt.OptionError, match="no checkpoints of ranks"):
        join_ranks([], tmp_path / "none", layout={})


def test_a_state_of_one_rank(states: Callable[..., list[Path]], tmp_path: Path) -> None:
    join_ranks(states(state(0)), tmp_path / "t", layout={})
    assert_same(ckptfmt.load(tmp_path / "t", rank=0, tensor_parallel=1), state(0))


def test_a_damaged_state_is_not_joined(
    states: Callable[..., list[Path]], tmp_path: Path
) -> None:
    paths = states(state(0), state(1))
    part = paths[1] / "part-00000.ckptfmt"
    data = bytearray(part.read_bytes())
    data[4096] ^= 1
    part.write_bytes(data)
    with pytest.raises(ckptfmt.ChecksumError):
        join_ranks(paths, tmp_path / "t", layout={})
    assert not (tmp_path / "t").exists()


def test_a_plan_that_cuts_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    rules = {"q": "rowwise"}
    said = r"^no tensor can be cut for 2 ranks: \d+ no rule has their names"
    with pytest.raises(ckptfmt.OptionError, match=said):
        ckptfmt.convert(folder, tmp_path / "x", tensor_parallel=2, tensor_parallel_plan=rules)
    assert not list(tmp_path.iterdir())
