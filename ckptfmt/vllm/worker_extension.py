"""``save_rank_state`` for an engine that runs: what a person calls, and what workers then do."""

from __future__ import annotations

import copy
import gc
import os
from typing import Any

from ckptfmt import dtypes
from ckptfmt.errors import OptionError
from ckptfmt.vllm.rank_group import this_group
from ckptfmt.vllm.rank_state_saving import refuse_saving, save_state

QUALNAME = "ckptfmt.vllm.WorkerExtension"


def save_rank_state(llm: Any, target: str | os.PathLike[str], **options: Any) -> list[int]:
    """Store the model of an engine that runs, each rank its own tensors, to be loaded by rank.

    What a worker has left of its weights after loading is no longer what was loaded. So each
    builds the model once more, and loads it as the engine was told to: this takes the memory of
    its share of the model a second time, on the device, until it is stored.
    ``model_loader_extra_config={"save_rank_state": TARGET}`` saves while loading, and needs none.

    Parameters
    ----------
    llm : vllm.LLM
        Made with ``worker_extension_cls="ckptfmt.vllm.WorkerExtension"``, or a class derived from
        it; of any load format.
    target : path-like
        The folder to be made, on a file system that all ranks share.
    **options
        ``alignment``, ``partition_size``, ``workers``, ``force``, as ``ckptfmt.save_dict`` has
        them; ``device`` if the model is to be built elsewhere: ``"cpu"``.

    Returns
    -------
    list of int
        Bytes of each rank's tensors.

    Raises
    ------
    OptionError
        The engine has no such workers.
    """
    parallel = llm.llm_engine.vllm_config.parallel_config
    if not parallel.worker_extension_cls:
        raise OptionError(
            "save_rank_state: the workers of this engine do not know it",
            hint=f'LLM(..., worker_extension_cls="{QUALNAME}")',
        )
    given = {"target": os.path.abspath(target), **options}
    saved: list[int] = llm.collective_rpc("ckptfmt_save_rank_state", kwargs=given)
    return saved


class WorkerExtension:
    """Methods for ``collective_rpc``: ``LLM(..., worker_extension_cls=…)`` adds them to workers."""

    vllm_config: Any
    model_runner: Any

    def ckptfmt_save_rank_state(
        self, target: str, device: str | None = None, **options: Any
    ) -> int:
        """Build this rank's model once more, store it and drop it. See `save_rank_state`."""
        from vllm.config import set_current_vllm_config  # noqa: PLC0415

        with this_group().together("building the model once more"):
            refuse_saving(target, **options)
            model = _built(self.vllm_config, self.model_runner.get_model(), device)
        try:
            with set_current_vllm_config(self.vllm_config):
                return save_state(model, self.vllm_config.model_config, target, **options)
        finally:
            del model
            gc.collect()  # modules hold each other in circles

    def ckptfmt_reload_weights(self, **options: Any) -> None:
        """As vLLM's own ``reload_weights``, for workers that have none, as those of vllm-ascend."""
        from vllm.config import set_current_vllm_config  # noqa: PLC0415

        with set_current_vllm_config(self.vllm_config):
            self.model_runner.reload_weights(**options)


def _built(vllm_config: Any, running: Any, device: str | None) -> Any:
    """The model once more, loaded as the running one was, and not processed."""
    from vllm.config import set_current_vllm_config  # noqa: PLC0415
    from vllm.model_executor.model_loader import get_model_loader  # noqa: PLC0415
    from vllm.model_executor.model_loader.utils import initialize_model  # noqa: PLC0415

    from ckptfmt.vllm.loader import follow  # noqa: PLC0415 - it is one of vLLM's classes

    torch = dtypes.import_torch()
    model_config, load_config = vllm_config.model_config, copy.copy(vllm_config.load_config)
    extra = dict(load_config.model_loader_extra_config or {})
    extra.pop("save_rank_state", None)
    load_config.model_loader_extra_config = extra
    apart = copy.copy(vllm_config)
    # Layers enter themselves there by name, and the running ones have these names.
    apart.compilation_config = copy.copy(vllm_config.compilation_config)
    apart.compilation_config.static_forward_context = {}
    apart.compilation_config.static_all_moe_layers = []
    where = device or load_config.device or vllm_config.device_config.device
    before = torch.get_default_dtype()
    with set_current_vllm_config(apart):
        torch.set_default_dtype(model_config.dtype)
        try:
            with torch.device(where):
                model = initialize_model(vllm_config=apart, model_config=model_config)
            follow(model, running, load_config)
            get_model_loader(load_config).load_weights(model, model_config)
        finally:
            torch.set_default_dtype(before)
    return model
