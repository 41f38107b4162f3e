"""Checkpoints that were quantized before: the library's quantizers are given their tensors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def is_quantized(config: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether the library will bring a quantizer: the configuration or the caller names one."""
    return bool(keywords.get("quantization_config") or _method_of(config))


def _method_of(config: Any) -> str:
    for part in (config, config.get_text_config()):
        found = getattr(part, "quantization_config", None)
        if found is not None:
            named = found if isinstance(found, dict) else vars(found)
            method = named.get("quant_method", "")
            return str(getattr(method, "value", method)) or "unknown"
    return ""


@contextmanager
def explained(path: str, config: Any) -> Iterator[None]:
    """What a quantizer misses is told as such, with what still can be done with the tensors."""
    method = _method_of(config)
    try:
        yield
    except (ImportError, ValueError, RuntimeError) as error:
        # Everything of the engine has been told by the reader; the rest is the library's.
        if not method or isinstance(error, MissingDependencyError):
            raise
        text = " ".join(str(error).split())
        raise MissingDependencyError(
            f"{path}: quantized by {method!r}, for which transformers lacks something: {text}",
            hint="ckptfmt.load gives its tensors as they are stored, bit for bit",
        ) from error
