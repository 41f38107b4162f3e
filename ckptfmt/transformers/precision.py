"""Which dtype a model has, and which of its tensors are cast while they are read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
from ckptfmt.dtypes import DTYPES

if TYPE_CHECKING:
    from ckptfmt.dtypes import Dtype
    from ckptfmt.index import Index


#: Of a checkpoint without floating tensors.
FALLBACK = DTYPES["F32"]


def stored(index: Index) -> Dtype | None:
    """The floating dtype that most bytes of a checkpoint have; None if it has none."""
    found: Counter[str] = Counter()
    for entry in index.tensors:
        if DTYPES[entry.dtype].is_float:
            found[entry.dtype] += entry.nbytes
    return DTYPES[found.most_common(1)[0][0]] if found else None


def wanted(torch_dtype: Any) -> Dtype | None:
    """The dtype that a caller wants; None for what is stored.

    Parameters
    ----------
    torch_dtype : str, torch.dtype or None
        None and ``"auto"``: as it is stored.
    """
    return None if torch_dtype == "auto" else dtypes.cast_target(torch_dtype)


def to_cast(index: Index, row: Dtype, cls: Any) -> tuple[list[str], list[str]]:
    """Names of tensors to cast while they are read, and of those to leave to the library.

    The library has its own rules for some: modules that a class keeps in fp32, parameters that it
    declares with another dtype. Cast twice they would lose digits. So only matrices of the dtype
    that most tensors have are cast here, if no such rule names them.
    """
    most = stored(index)
    kept = [
        pattern
        for which in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        for pattern in getattr(cls, which, None) or ()
    ]
    ours: list[str] = []
    others: list[str] = []
    for entry in index.tensors:
        ruled = any(pattern in name for name in entry.names for pattern in kept)
        mine = most is not None and entry.dtype == most.name != row.name
        (ours if mine and len(entry.shape) > 1 and not ruled else others).extend(entry.names)
    return ours, others
