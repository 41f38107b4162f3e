"""A worker whose loader foresees nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptfmt.vllm import shares
from tests.vllm.engine import Extension

_foreseen = shares.Shares.of


def _nonsense(self: Any, name: str, shape: Sequence[int]) -> shares.Share | None:
    """The other rank's rows; and half the rows of what no layer cuts there."""
    if name.endswith(("o_proj.weight", "down_proj.weight", "norm.weight")):
        return shares.Share(0, 0, shape[0] // 2, shape[0])
    share = _foreseen(self, name, shape)
    if share is None:
        return None
    count = share.stop - share.start
    start = 0 if share.start else count
    return shares.Share(share.dim, start, start + count, share.whole)


class Astray(Extension):
    """Imported by each worker before it loads."""


shares.Shares.of = _nonsense  # type: ignore[method-assign]
