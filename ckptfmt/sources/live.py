"""A live torch module, or a dict of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt.errors import SourceError
from ckptfmt.sources.torch_tensors import TorchTensors

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_live(source: object) -> bool:
    """Whether this is an object to store rather than a path to read."""
    return hasattr(source, "state_dict") or hasattr(source, "items")


def live_source(source: Any) -> TorchTensors:
    """A source over a module's or dict's tensors. They must not change until it is converted."""
    found: Mapping[str, Any] = (
        source.state_dict(keep_vars=True) if hasattr(source, "state_dict") else source
    )
    if not hasattr(found, "items"):
        raise SourceError(f"state_dict() gave a {type(found).__name__}, expected a dict of tensors")
    return TorchTensors(dict(found.items()), kind="live", where=type(source).__name__)
