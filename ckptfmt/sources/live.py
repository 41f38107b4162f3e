"""A live torch module, or a dict of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
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
    tensors = dict(found.items())
    opened = TorchTensors(tensors, kind="live", where=type(source).__name__)
    _wait_for_devices(tensors)
    return opened


def _wait_for_devices(tensors: Mapping[str, Any]) -> None:
    """Let what computes the tensors end: workers have streams of their own."""
    devices = {tensor.device for tensor in tensors.values()}
    for device in devices:
        module: Any = getattr(dtypes.import_torch(), device.type, None)
        if device.type != "cpu" and hasattr(module, "synchronize"):
            module.synchronize(device)
