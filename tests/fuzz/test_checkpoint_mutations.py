"""Broken folders: opening, loading, verifying and inspecting end in our errors or in the truth."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import ckptfmt
from ckptfmt import rendering
from tests.helpers import mutations
from tests.helpers.models import equal_bits, random_tensor
from tests.helpers.mutations import mutate_bytes, mutate_tree, spelled, to_pairs

COUNT = 1500
SHAPES = {"a.weight": (70, 33), "a.bias": (7,), "scalar": (), "empty": (0, 3), "b.weight": (300,)}


@pytest.fixture(scope="module")
def model() -> dict[str, torch.Tensor]:
    made = {n: random_tensor(s, torch.float32, i) for i, (n, s) in enumerate(SHAPES.items())}
    return {**made, "tied": made["a.weight"]}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, model: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of two partitions."""
    target = tmp_path_factory.mktemp("good") / "model.ckpt"
    model = {**model, "large": random_tensor((1 << 20,), torch.uint8, 9)}
    ckptfmt.convert(model, target, partition_size="1032KiB")
    assert len(list(target.glob("part-*"))) == 2
    return target


def with_index(folder: Path, data: bytes) -> None:
    """Replace the index, and its sum: what comes then is decoding alone."""
    (folder / "ckptfmt.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  ckptfmt.json\n")


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a person may do with a folder."""
    with ckptfmt.open(folder) as checkpoint:
        rendering.to_dict(checkpoint.index)
        rendering.summary("x", checkpoint.index)
        for name in checkpoint.names:
            checkpoint.crc32c(name)
        return checkpoint.load()


def test_a_folder_with_a_mutated_index(good: Path, tmp_path: Path) -> None:
    """The rest is whole, so an index that is accepted must still be told from the truth."""
    rng = random.Random(f"folder {mutations.SEED}")
    folder = tmp_path / "m.ckpt"
    shutil.copytree(good, folder)
    text = (good / "ckptfmt.json").read_bytes()
    tree = to_pairs(json.loads(text))
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        if rng.random() < 0.3:
            data = mutate_bytes(text, rng)
        else:
            copy = deepcopy(tree)
            mutate_tree([copy], rng, rng.choice([1, 1, 2]))
            data = spelled(copy, rng).encode("utf-8", "surrogatepass")
        with_index(folder, data)
        try:
            read_all(folder)
        except ckptfmt.CkptError:
            counts["refused"] += 1
        else:
            counts["read"] += 1
        try:
            ok = ckptfmt.verify(folder).ok
        except ckptfmt.CkptError:
            ok = False
        counts["verified" if ok else "not verified"] += 1
    assert counts["refused"] + counts["read"] == COUNT
    # Metadata, provenance, names and shapes of equal size may change; what verify calls whole
    # can be read, and what cannot be read is not whole.
    assert counts["verified"] <= counts["read"]
    assert counts["refused"] > COUNT // 2
    assert counts["read"] > 50


def test_a_folder_with_a_mutated_file(
    good: Path, tmp_path: Path, model: dict[str, torch.Tensor]
) -> None:
    rng = random.Random(f"file {mutations.SEED}")
    folder = tmp_path / "m.ckpt"
    shutil.copytree(good, folder)
    files = sorted(p.name for p in folder.iterdir())
    counts: Counter[str] = Counter()
    for _ in range(COUNT // 3):
        name = rng.choice(files)
        original = (good / name).read_bytes()
        data = mutate_bytes(original, rng)
        (folder / name).write_bytes(data)
        changed = data != original
        try:
            problems = [p.file for p in ckptfmt.verify(folder).problems]
        except ckptfmt.CkptError:
            problems = ["all"]
        assert bool(problems) == changed
        try:
            found = read_all(folder)
        except ckptfmt.CkptError:
            assert changed
            counts["refused"] += 1
        else:
            # Padding and the list of sums may be damaged without harm to any tensor.
            counts["read"] += 1
            assert all(equal_bits(found[n], t) for n, t in model.items())
        (folder / name).write_bytes(original)
    assert sum(counts.values()) == COUNT // 3
    assert counts["refused"] > COUNT // 6
