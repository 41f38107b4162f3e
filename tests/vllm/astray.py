"""A worker whose loader foresees nonsense, by what ``ASTRAY`` says."""

from __future__ import annotations

import os
from typing import Any

from ckptfmt.vllm import shares
from tests.vllm.engine import Extension

_foreseen = shares.Shares.of


def _wrong_rows(self: Any, name: str) -> shares.Share | None:
    """The other rank's rows."""
    share = _foreseen(self, name)
    if share is None:
        return None
    count = share.stop - share.start
    start = 0 if share.start else count
    return shares.Share(share.dim, start, start + count, share.whole)


def _any_tensor(self: Any, name: str) -> shares.Share | None:
    """Rows of what no layer cuts."""
    share = _foreseen(self, name)
    if name.endswith(("o_proj.weight", "down_proj.weight", "norm.weight")):
        return shares.Share(0, 0, 64, 128)  # all of them have as many rows
    return share


class Astray(Extension):
    """Imported by each worker before it loads."""


shares.Shares.of = {  # type: ignore[method-assign]
    "wrong rows": _wrong_rows, "other loader": _any_tensor,
}[os.environ["ASTRAY"]]  # fmt: skip
