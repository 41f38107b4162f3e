"""Any tensors, cut by any rules for any ranks, are what slicing gives, and whole when joined."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptfmt
from tests.fuzz.test_checkpoint_mutations import with_index
from tests.helpers import mutations
from tests.helpers.models import bits, random_tensor
from tests.helpers.mutations import fuzz_settings, mutate_tree, spelled, to_pairs

GOLDENS = Path(__file__).parents[1] / "golden" / "ranks"
DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.float64]
KINDS = ("colwise", "rowwise", "packed_colwise", "packed_rowwise", "replicate")
Tensors = dict[str, torch.Tensor]


@st.composite
def models(draw: st.DrawFn) -> tuple[Tensors, dict[str, Any]]:
    """Tensors, some tied, and a rule for most of them; one can always be cut."""
    made: Tensors = {"even": random_tensor((24,), torch.float32, 99)}
    rules: dict[str, Any] = {"even": "colwise"}
    for i in range(draw(st.integers(1, 5))):
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 24]), max_size=4))
        if shape and draw(st.integers(0, 9)) == 0:
            shape[0] = 24 * 4096  # of several blocks, with others beside it
        made[f"t{i}"] = random_tensor(tuple(shape), draw(st.sampled_from(DTYPES)), i)
        kind = draw(st.sampled_from([*KINDS, None]))
        if kind is not None:
            rules[f"t{i}"] = kind
        if draw(st.integers(0, 4)) == 0:
            made[f"tied{i}"] = made[f"t{i}"]
    return made, rules


def piece(tensor: torch.Tensor, kind: str | None, ranks: int, rank: int) -> torch.Tensor:
    """What a rank has, by the words of docs/tensor_parallel.md; all of it if it cannot be cut."""
    dims = tensor.dim()
    if kind in (None, "replicate") or dims == 0 or tensor.numel() == 0:
        return tensor
    if kind.endswith("rowwise") and dims == 1:
        return tensor
    dim = dims - 1 if kind.endswith("rowwise") else max(dims - 2, 0)
    blocks = 2 if kind.startswith("packed") else 1
    if tensor.shape[dim] % (blocks * ranks):
        return tensor
    parts = [block.chunk(ranks, dim)[rank] for block in tensor.chunk(blocks, dim)]
    return torch.cat(parts, dim)


def same(found: Tensors, wanted: Tensors) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


@settings(fuzz_settings, max_examples=60)
@given(
    made=models(), ranks=st.sampled_from([1, 2, 3, 4, 6]), again=st.integers(1, 6),
    small=st.booleans(), data=st.data(),
)  # fmt: skip
def test_pieces_are_what_slicing_gives(
    tmp_path_factory: pytest.TempPathFactory,
    made: tuple[Tensors, dict[str, Any]],
    ranks: int,
    again: int,
    small: bool,
    data: st.DataObject,
) -> None:
    model, rules = made
    folder = tmp_path_factory.mktemp("ranks")
    path = folder / "cut"
    options: dict[str, Any] = {"partition_size": "1100KiB"} if small else {}
    ckptfmt.convert(model, path, tensor_parallel=ranks, tensor_parallel_plan=rules, **options)
    assert ckptfmt.verify(path).problems == []
    kinds = {name: rules.get(name.replace("tied", "t")) for name in model}
    same(ckptfmt.load(path), model)
    rank = data.draw(st.integers(0, ranks - 1))
    wanted = {name: piece(t, kinds[name], ranks, rank) for name, t in model.items()}
    found = ckptfmt.load(path, rank=rank, tensor_parallel=ranks, mmap=data.draw(st.booleans()))
    same(found, wanted)
    with ckptfmt.open(path, rank=rank) as checkpoint:
        for name, tensor in found.items():
            where = checkpoint.cut_of(name)
            if where is not None:
                assert where.shape_of_the_whole == tuple(model[name].shape)
                part = model[name].narrow(where.dim, where.start, where.stop - where.start)
                assert bits(part.contiguous()) == bits(tensor)
            elif not str(kinds[name]).startswith("packed"):
                assert bits(tensor) == bits(model[name])
    # At another degree: what was cut is cut so, or it is said that it cannot be.
    can = all(
        piece(t, kinds[n], ranks, 0).shape == t.shape
        or piece(t, kinds[n], again, 0).shape != t.shape
        for n, t in model.items()
    )
    if ranks > 1 and again > 1 and again != ranks:
        rank = data.draw(st.integers(0, again - 1))
        try:
            found = ckptfmt.load(path, rank=rank, tensor_parallel=again)
        except ckptfmt.OptionError:
            assert not can
        else:
            assert can
            same(found, {
                n: piece(t, kinds[n], again, rank)
                if piece(t, kinds[n], ranks, 0).shape != t.shape else t
                for n, t in model.items()
            })  # fmt: skip
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["cut.ckpt", "state.ckpt"])
def test_folders_of_ranks_with_a_mutated_index(name: str, tmp_path: Path) -> None:
    """Whoever opens one gets tensors, or one of our errors."""
    rng = random.Random(f"ranks {mutations.SEED}")
    folder = tmp_path / name
    shutil.copytree(GOLDENS / name, folder)
    text = (folder / "ckptfmt.json").read_bytes()
    tree = to_pairs(json.loads(text))
    views: list[dict[str, Any]] = [
        {}, {"rank": 0}, {"rank": 1, "tensor_parallel": 2}, {"rank": 3, "tensor_parallel": 4},
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    for _ in range(500):
        copy = deepcopy(tree)
        mutate_tree([copy], rng, rng.choice([1, 1, 2]))
        with_index(folder, spelled(copy, rng).encode("utf-8", "surrogatepass"))
        for view in views:
            try:
                with ckptfmt.open(folder, **view) as checkpoint:
                    for key in checkpoint:
                        checkpoint.cut_of(key)
                    checkpoint.load(framework="torch")
            except ckptfmt.CkptError:
                counts["refused"] += 1
            else:
                counts["read"] += 1
    assert min(counts["refused"], counts["read"]) > 50, counts
