"""What children print and tests read: digests or an error with its fields, as a line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ckptfmt
from ckptfmt.errors import CkptError


def digests(tensors: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def folder_digests(path: str | Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by relative name."""
    root = Path(path)
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def tell(function: Callable[[], Mapping[str, Any]]) -> None:
    """Call it; print what it returns, or the error that this package raised on purpose."""
    try:
        found = dict(function())
    except CkptError as error:
        found = {
            "error": type(error).__name__, "message": str(error), "hint": error.hint,
            "errno": getattr(error, "errno", None), "filename": getattr(error, "filename", None),
        }  # fmt: skip
    print(json.dumps(found), flush=True)


def load_digests(path: str | Path, **options: Any) -> dict[str, Any]:
    """Load everything as numpy arrays; digests, and the statistics."""
    tensors = ckptfmt.load(path, framework="numpy", options=ckptfmt.LoadOptions(**options))
    stats = ckptfmt.load_stats()
    assert stats is not None
    return {"digests": digests(tensors), "stats": stats.to_dict()}


def tell_load(path: str | Path, **options: Any) -> None:
    """`load_digests`, told."""
    tell(lambda: load_digests(path, **options))
