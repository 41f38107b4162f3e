"""Files that were cut short, and files with other bytes: refused by name, or the same tensors."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.formats import FORMATS, Tensors
from tests.helpers.models import equal_bits, random_tensor

#: What a damaged source may end with; a failed system call would be one of the machine.
REFUSALS = (ckptfmt.SourceError, ckptfmt.UnsupportedDtypeError)
TENSORS = {
    "a": random_tensor((50, 30), torch.float32, 1),
    "b": random_tensor((7,), torch.int8, 2),
    "c": random_tensor((4, 30), torch.float16, 3).t(),
}


def files(source: Path) -> list[Path]:
    return sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]


def attempt(source: Path, target: Path) -> Tensors | None:
    """The tensors, if it is converted; None if it is refused and nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and ours on odd headers
        try:
            ckptfmt.convert(source, target, workers=1)
        except REFUSALS:
            assert not target.exists()
            assert not Path(f"{target}.partial").exists()
            return None
    found = ckptfmt.load(target)
    ckptfmt.convert(source, target, force=True)
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    source = FORMATS[kind].write(tmp_path, TENSORS)
    for path in files(source):
        data = path.read_bytes()
        lengths = {0, 1, 7, 8, 30, len(data) // 3, len(data) // 2, len(data) - 1}
        for nbytes in sorted(n for n in lengths if n < len(data)):
            path.write_bytes(data[:nbytes])
            found = attempt(source, tmp_path / "x.ckpt")
            # What is cut off may be padding; then the tensors are whole.
            assert found is None or all(equal_bits(found[n], TENSORS[n]) for n in TENSORS), (
                f"{path.name} cut to {nbytes} of {len(data)}"
            )
            if found is not None:
                assert len(data) - nbytes <= 8
                ckptfmt.convert({}, tmp_path / "x.ckpt", force=True)
        path.write_bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_gone_is_missed(kind: str, tmp_path: Path) -> None:
    source = FORMATS[kind].write(tmp_path, TENSORS)
    for path in files(source):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises((ckptfmt.SourceError, ckptfmt.NotFoundError)) as caught:
            ckptfmt.convert(source, tmp_path / "x.ckpt")
        assert path.name in str(caught.value) or "no weights" in str(caught.value)
        path.write_bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_that_are_others_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    """Headers, mostly: 30 files of each kind with one to four bytes replaced."""
    source = FORMATS[kind].write(tmp_path, TENSORS)
    rng = random.Random(kind)
    target = tmp_path / "x.ckpt"
    for _ in range(30):
        path = rng.choice(files(source))
        data = path.read_bytes()
        changed = bytearray(data)
        ends = [len(data), min(len(data), 400)]
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(rng.choice(ends))
            at = at if rng.random() < 0.5 else len(data) - 1 - at
            changed[at] = rng.choice([0, 1, 127, 128, 255, changed[at] ^ 1 << rng.randrange(8)])
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ckptfmt.convert(source, target, workers=1, dry_run=rng.random() < 0.3)
            except REFUSALS:
                assert not target.exists()
        path.write_bytes(data)
        if target.exists():
            assert ckptfmt.verify(target).problems == []
            for left in sorted(target.iterdir()):
                left.unlink()
            target.rmdir()
