"""Convert and load: what comes out is what went in, by every way of loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.models import equal_bits

WAYS = {
    "default": {},
    "mmap": {"mmap": True},
    "mmap verified": {"mmap": True, "verify": True},
    "unverified": {"verify": False},
    "io_uring direct": {"options": ckptfmt.LoadOptions(reads="direct")},
    "pread direct": {"options": ckptfmt.LoadOptions(reads="direct", io="pread")},
    "buffered": {"options": ckptfmt.LoadOptions(reads="buffered")},
    "one thread, depth 1": {"options": ckptfmt.LoadOptions(threads=1, depth=1, op_nbytes=1 << 20)},
}


@pytest.mark.parametrize("way", WAYS)
def test_load_gives_what_was_converted(
    way: str, checkpoint: Path, model: dict[str, torch.Tensor]
) -> None:
    found = ckptfmt.load(checkpoint, **WAYS[way])
    assert set(found) == set(model)
    assert all(equal_bits(found[name], tensor) for name, tensor in model.items())
