"""Checkpoints that were quantized before: the library's quantizers are given their tensors."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import CkptError, MissingDependencyError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HINT = "ckptfmt.load gives its tensors as they are stored, bit for bit"


def may_be(path: str) -> bool:
    """Whether a folder's configuration names a quantizer, before the library has read it."""
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            return "quantization_config" in json.dumps(json.load(file))
    except (OSError, ValueError):  # the library will say so
        return False


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
    """Tell what a quantizer misses, or why it refuses, and what still can be done.

    Raises
    ------
    MissingDependencyError
        A package is not installed.
    SourceError
        The library does not take this model on this machine.
    """
    method = _method_of(config)
    try:
        yield
    except CkptError:
        raise
    except (ImportError, ValueError, RuntimeError) as error:
        if not method:
            raise
        kind = MissingDependencyError if isinstance(error, ImportError) else SourceError
        text = " ".join(str(error).split())
        raise kind(f"{path}: quantized by {method!r}: {text}", hint=HINT) from error
