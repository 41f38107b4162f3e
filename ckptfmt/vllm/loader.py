"""The loader that vLLM knows as ``load_format="ckptfmt"``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from ckptfmt import _core, dtypes
from ckptfmt.errors import LoadMismatchError, OptionError
from ckptfmt.opening import open_checkpoint
from ckptfmt.placement import normalize
from ckptfmt.vllm.by_name import ByName
from ckptfmt.vllm.rank_state import RankState, is_rank_state
from ckptfmt.vllm.rank_state_saving import refuse_saving, save_state
from ckptfmt.vllm.report import log
from ckptfmt.vllm.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


@dataclass(frozen=True, slots=True)
class _Source:
    """Where weights came from: what was set by which configuration, or what vLLM has as model."""

    config: Any
    model: str
    used: str


#: By model, as long as vLLM keeps it: a loader is made anew for each loading.
_sources: WeakKeyDictionary[Any, _Source] = WeakKeyDictionary()


class CkptfmtLoader(BaseModelLoader):  # type: ignore[misc]  # vLLM is not there to be looked at
    """Loads a checkpoint of ckptfmt, or a folder of safetensors, into a model of vLLM.

    Only what a loader has to bring is overridden. vLLM and the platforms on top of it make the
    model and process its weights afterwards.

    Parameters
    ----------
    load_config : vllm.config.LoadConfig
        Whose ``model_loader_extra_config`` has the keys of `Settings`.

    Raises
    ------
    OptionError
        A key or value is not known. Nothing else is done here: vLLM makes loaders that load
        nothing.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)
        self.settings = Settings.given(load_config.model_loader_extra_config)

    def download_model(self, model_config: Any) -> None:
        """Open what would be loaded, and check it: there is nothing to download."""
        path = self.settings.rank_state or self.settings.path or str(model_config.model)
        if not is_rank_state(path):
            open_checkpoint(path).close()

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Fill a model: by rank where a rank state is meant and fits, else by name.

        Raises
        ------
        LoadMismatchError
            Parameters are left that nothing was loaded into; they are listed. Or a rank state does
            not fit, and there are no full weights.
        """
        saving = None if _is_draft(model_config) else self.settings.saving
        if saving is not None:
            refuse_saving(**saving)
        state = self._rank_state(model_config, model)
        if state is None or not state.load(model, model_config):
            path = state.full if state is not None else self._path(model_config, model)
            self._load_by_name(model, model_config, str(path))
        if saving is not None:
            save_state(model, model_config, **saving)

    def _load_by_name(self, model: torch.nn.Module, model_config: Any, path: str) -> None:
        is_lazy = dtypes.import_torch().nn.parameter.is_lazy  # it has no memory yet
        for parameter in model.parameters():
            if parameter.device.type == "cpu" and not is_lazy(parameter):
                # New memory comes faster so.
                _core.advise_huge_pages(parameter.data_ptr(), parameter.nbytes)
        loaded = model.load_weights(self.get_all_weights(model_config, model))
        # What a quantization makes of its parameters is its own affair, as to vLLM's own loader.
        if loaded is not None and model_config.quantization is None:
            _check_all_are_loaded(model, set(loaded), path)

    def get_all_weights(
        self, model_config: Any, model: torch.nn.Module
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors, being read while the model takes them. For reloading, too."""
        # Looked at now: a model that is reloaded has no memory by the time it asks for the first.
        device = _device(model)
        state = self._rank_state(model_config, model)
        if state is not None and state.full is None:
            return state.reload(model, model_config, device)
        path = state.full if state is not None else self._path(model_config, model)
        return iter(ByName(str(path), model, self.settings, device, *_ranks()))

    def _rank_state(self, model_config: Any, model: torch.nn.Module) -> RankState | None:
        """The rank state that is to be loaded, if it is one; beside it, what else there is."""
        used, name = self._path(model_config, model), str(model_config.model)
        if used == self.settings.path and is_rank_state(name):
            used = name
        elif used != self.settings.rank_state and not is_rank_state(used):
            return None
        return RankState.beside(used, [self.settings.path, name], self.settings)

    def _path(self, model_config: Any, model: torch.nn.Module) -> str:
        """The checkpoint: what was set last, or the folder that vLLM calls the model.

        The setting is one for target and draft model; it is meant for the target. And vLLM says
        ``reload_weights(weights_path=…)`` by giving the model that name, and ``update_config`` by
        giving its workers another configuration.
        """
        setting, name = self.settings.rank_state or self.settings.path, str(model_config.model)
        before = _sources.get(model)
        if before is None:
            used = name if setting is None or _is_another_model(name) else setting
        elif name != before.model:
            used = name
        elif self.load_config is not before.config:
            used = setting or name
        else:
            used = before.used
        _sources[model] = _Source(self.load_config, name, used)
        return used


def follow(model: torch.nn.Module, other: torch.nn.Module, load_config: Any) -> None:
    """Let a model be loaded from where another one's weights have come from."""
    if other in _sources:
        _sources[model] = replace(_sources[other], config=load_config)


def _check_all_are_loaded(model: torch.nn.Module, loaded: set[str], path: str) -> None:
    """Refuse what vLLM's own loader refuses, and tell what it passes over."""
    missing = {name for name, _ in model.named_parameters()} - loaded
    # Of layers that a quantization might have filled, and a target model fills for its draft.
    excused = {
        f"{name}.{parameter}" if name else parameter
        for name, module in model.named_modules()
        if hasattr(getattr(module, "quant_method", None), "process_weights_after_loading")
        for parameter, _ in module.named_parameters()
    }
    wanted = sorted(missing - excused)
    if wanted:
        raise LoadMismatchError(
            f"{path} has nothing for {len(wanted)} parameters of {type(model).__name__}: "
            f"{', '.join(wanted)}"
        )
    if missing:
        log.warning(
            "ckptfmt: %s has nothing for these parameters, which vLLM's own loader does not ask "
            "for either: %s", path, ", ".join(sorted(missing)),
        )  # fmt: skip


def _is_draft(model_config: Any) -> bool:
    is_said = getattr(model_config, "runner_type", None) == "draft"
    return is_said or _is_another_model(str(model_config.model))


def _is_another_model(name: str) -> bool:
    """Whether this is not the model that vLLM serves, but one that drafts for it."""
    from vllm.config import get_current_vllm_config  # noqa: PLC0415

    try:
        served = get_current_vllm_config().model_config
    except AssertionError:  # nobody serves: a loader that is called by itself
        return False
    return served is not None and str(served.model) != name


def _device(model: torch.nn.Module) -> str:
    """Where the parameters are; the CPU, from where vLLM copies, if ckptfmt cannot load there."""
    devices = (str(parameter.device) for parameter in model.parameters())
    found = next((device for device in devices if device != "meta"), "cpu")
    try:
        return normalize(found)
    except OptionError:
        return "cpu"


def _ranks() -> tuple[int, int]:
    """This process's number among those that share each tensor, and how many they are."""
    from vllm.distributed import parallel_state  # noqa: PLC0415

    if not parallel_state.model_parallel_is_initialized():
        return 0, 1
    group = parallel_state.get_tp_group()
    return group.rank_in_group, group.world_size
