"""The plugin for vLLM: ``load_format="ckptfmt"``, found by the entry point of this package.

vLLM calls `register` once in each of its processes. Nothing here is imported by the rest of
ckptfmt, and nothing here needs vLLM before it is called.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ckptfmt.doctor.versions import VLLM_REGISTERS

if TYPE_CHECKING:
    from ckptfmt.vllm.worker_extension import WorkerExtension, save_rank_state

__all__ = ["WorkerExtension", "register", "save_rank_state"]
LOAD_FORMAT = "ckptfmt"
#: Below vLLM's own logger, whose handler shows it among vLLM's lines.
log = logging.getLogger("vllm.ckptfmt")


def register() -> None:
    """Tell vLLM of ``load_format="ckptfmt"``. May be called any number of times; never raises.

    Whatever this raised would stop every vLLM of the environment, whether it is to load by ckptfmt
    or not. So what is wrong is logged, and the format stays unknown to vLLM.
    """
    try:
        _register()
    except Exception:  # see above: vLLM itself may be broken in any way
        log.exception("ckptfmt cannot register load_format=%s", LOAD_FORMAT)


def _register() -> None:
    try:
        import vllm  # noqa: PLC0415
    except ImportError as error:
        log.warning("load_format=%s is for vLLM, which cannot be imported: %s", LOAD_FORMAT, error)
        return
    try:
        from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415
    except ImportError as error:
        version = getattr(vllm, "__version__", "of unknown version")
        log.warning(
            "load_format=%s needs vLLM %s or newer, which takes load formats of other packages; "
            "this is vLLM %s: %s",
            LOAD_FORMAT, VLLM_REGISTERS, version, error,
        )  # fmt: skip
        return
    from ckptfmt.vllm.loader import CkptfmtLoader  # noqa: PLC0415

    # Registering twice would be a warning in vLLM's log.
    if _registered.get(register_model_loader) is not CkptfmtLoader:
        register_model_loader(LOAD_FORMAT)(CkptfmtLoader)
        _registered[register_model_loader] = CkptfmtLoader


_registered: dict[object, type] = {}
#: What a person calls, and where it is.
_HOMES = {"WorkerExtension": "worker_extension", "save_rank_state": "worker_extension"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
