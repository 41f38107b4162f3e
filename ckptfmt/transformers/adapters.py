"""Adapters of PEFT: ``load_lora`` beside ``save_lora``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
from ckptfmt.errors import (
    LoadMismatchError,
    MissingDependencyError,
    OptionError,
    SourceError,
)
from ckptfmt.fill import listed
from ckptfmt.opening import open_checkpoint
from ckptfmt.saving import save_lora
from ckptfmt.transformers import places, precision, storage

if TYPE_CHECKING:
    import os

__all__ = ["load_lora", "save_lora"]


def load_lora(
    model: Any,
    adapter_name: str,
    adapter_path: str | os.PathLike[str],
    device_map: Any = "auto",
    storage_path: str | os.PathLike[str] | None = None,
    torch_dtype: Any = None,
) -> Any:
    """Put an adapter that `save_lora` or a conversion stored onto a model.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        What it goes onto; a model of PEFT may have others already.
    adapter_name : str
        What it is called from now on, and active as.
    adapter_path : path-like
        The checkpoint, with its ``adapter_config.json``; or its name below `storage_path`.
    device_map : str or mapping
        ``"auto"``: each tensor goes where the module is that it belongs to. Else as for
        `load_model`.
    storage_path : path-like, optional
        As for `load_model`.
    torch_dtype : str or torch.dtype, optional
        Cast floating tensors; as they are stored if not given.

    Returns
    -------
    peft.PeftModel
        With the adapter, in evaluation mode.

    Raises
    ------
    MissingDependencyError
        peft cannot be imported.
    OptionError
        There is an adapter of this name.
    SourceError
        There is no ``adapter_config.json``, or PEFT does not read it.
    LoadMismatchError
        The adapter is not of this model; the names are listed. The model is what it was.
    """
    try:
        import peft  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"load_lora needs peft: {error}", hint="pip install peft"
        ) from error
    path = storage.find(adapter_path, storage_path)
    if adapter_name in (getattr(model, "peft_config", None) or {}):
        raise OptionError(f"the model has an adapter {adapter_name!r} already")
    row = precision.wanted(torch_dtype)
    where = None if device_map == "auto" else places.given(device_map)
    with open_checkpoint(path) as checkpoint, ExitStack() as undo:
        try:
            config = peft.PeftConfig.from_pretrained(path)
        except ValueError as error:
            raise SourceError(
                f"{path}: no adapter: {error}", hint="save_lora, and a conversion, store it beside"
            ) from error
        try:
            model = _with_adapter(model, adapter_name, config, undo)
        except ValueError as error:
            raise LoadMismatchError(f"{path}: not an adapter of this model: {error}") from error
        devices = _devices(model, checkpoint.names, where)
        tensors: dict[str, Any] = {}
        for device in dict.fromkeys(devices.values()):
            mine = [name for name, one in devices.items() if one == device]
            tensors |= checkpoint.load(mine, device=device, dtype=dtypes.cast_name(row))
        try:
            told = peft.set_peft_model_state_dict(
                model, tensors, adapter_name=adapter_name, low_cpu_mem_usage=True
            )
        except RuntimeError as error:  # shapes
            raise LoadMismatchError(f"{path}: not an adapter of this model: {error}") from error
        missing = [
            name
            for name, parameter in model.named_parameters()
            if parameter.is_meta and f".{adapter_name}" in name
        ]
        problems = listed("not in the model", sorted(told.unexpected_keys or ()))
        problems += listed("missing in the checkpoint", missing)
        if problems:
            raise LoadMismatchError(f"{path}: not an adapter of this model: {'; '.join(problems)}")
        undo.pop_all()
    model.set_adapter(adapter_name)
    return model.eval()


def _with_adapter(model: Any, name: str, config: Any, undo: ExitStack) -> Any:
    """The model with an adapter that has no values yet, and how it is taken off again."""
    import peft  # noqa: PLC0415

    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config, low_cpu_mem_usage=True)
        undo.callback(model.delete_adapter, name)
        return model
    made = peft.get_peft_model(model, config, adapter_name=name, low_cpu_mem_usage=True)
    if hasattr(made.base_model, "unload"):  # else it stands beside the model, not in it
        undo.callback(made.base_model.unload)
    return made


def _devices(model: Any, names: Any, where: places.Places | None) -> dict[str, str]:
    """Where each of the adapter's tensors goes: by what a caller says, else to what it adapts."""
    modules = dict(model.named_modules())
    found = {}
    for name in names:
        if where is not None:
            found[name] = where.of(name) or next(iter(where.modules.values()))
            continue
        above = name
        while above and above not in modules:
            above = above.rpartition(".")[0]
        there = (t.device for t in modules[above].parameters() if not t.is_meta)
        found[name] = str(next(there, model.device))
    return found
