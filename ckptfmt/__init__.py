"""ckptfmt: convert model checkpoints once, load them at the speed of the hardware.

    ckptfmt.convert("Qwen2.5-3B-Instruct", "qwen.ckpt")
    tensors = ckptfmt.load("qwen.ckpt")

Importing this package imports neither torch nor numpy; names are resolved when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ckptfmt.version import VERSION as __version__

if TYPE_CHECKING:
    from ckptfmt.checkpoint import Checkpoint
    from ckptfmt.conversion import ConvertReport, convert
    from ckptfmt.errors import (
        ChecksumError,
        CkptError,
        CleanupWarning,
        ClosedError,
        DeviceError,
        FileError,
        FormatError,
        HubError,
        LoadMismatchError,
        MissingDependencyError,
        NotFoundError,
        OptionError,
        OutOfMemoryError,
        SourceError,
        TargetExistsError,
        TensorNotFoundError,
        UnsupportedDtypeError,
        UnsupportedVersionError,
    )
    from ckptfmt.exporting import export
    from ckptfmt.opening import load
    from ckptfmt.opening import open_checkpoint as open
    from ckptfmt.options import ConvertOptions, LoadOptions
    from ckptfmt.saving import SaveOptions, save_dict, save_lora, save_model
    from ckptfmt.stats import FileStrategy, LoadStats, load_stats
    from ckptfmt.verification import Problem, VerifyReport, verify

_HOMES = {
    "Checkpoint": "checkpoint", "load": "opening", "open": "opening:open_checkpoint",
    "ConvertReport": "conversion", "convert": "conversion",
    "export": "exporting",
    "ConvertOptions": "options", "LoadOptions": "options",
    "SaveOptions": "saving",
    "save_dict": "saving", "save_lora": "saving", "save_model": "saving",
    "FileStrategy": "stats", "LoadStats": "stats", "load_stats": "stats",
    "Problem": "verification", "VerifyReport": "verification", "verify": "verification",
    **dict.fromkeys((
        "ChecksumError", "CkptError", "CleanupWarning", "ClosedError", "DeviceError", "FileError",
        "FormatError", "HubError",
        "LoadMismatchError", "MissingDependencyError", "NotFoundError", "OptionError",
        "OutOfMemoryError", "SourceError", "TargetExistsError", "TensorNotFoundError",
        "UnsupportedDtypeError", "UnsupportedVersionError",
    ), "errors"),
}  # fmt: skip

__all__ = [
    "Checkpoint",
    "ChecksumError",
    "CkptError",
    "CleanupWarning",
    "ClosedError",
    "ConvertOptions",
    "ConvertReport",
    "DeviceError",
    "FileError",
    "FileStrategy",
    "FormatError",
    "HubError",
    "LoadMismatchError",
    "LoadOptions",
    "LoadStats",
    "MissingDependencyError",
    "NotFoundError",
    "OptionError",
    "OutOfMemoryError",
    "Problem",
    "SaveOptions",
    "SourceError",
    "TargetExistsError",
    "TensorNotFoundError",
    "UnsupportedDtypeError",
    "UnsupportedVersionError",
    "VerifyReport",
    "__version__",
    "convert",
    "export",
    "load",
    "load_stats",
    "open",
    "save_dict",
    "save_lora",
    "save_model",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(import_module(f"ckptfmt.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
