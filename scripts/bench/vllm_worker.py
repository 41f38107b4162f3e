"""What scripts/bench_vllm.py has vLLM's workers do: load weights into models that are made anew.

The first load counts for nothing: on a virtual machine whose host takes free memory back, it
measures the host. Its memory is dropped, and the second is timed at once. The page cache is brought
to its state before each, and checked.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import time
from typing import Any

from ckptfmt.bench.cache_state import establish, wait_for_host


class Loads:
    """Methods of vLLM's workers, for ``collective_rpc``."""

    def ckptfmt_time_loads(
        self: Any, load_format: str, path: str, extra: dict[str, Any], files: list[str]
    ) -> dict[str, Any]:
        """Seconds of two loads on this rank, and the sum of all parameters."""
        from vllm.distributed import get_tp_group

        group = get_tp_group()
        record: dict[str, Any] = {"strategy": load_format}
        loaded: list[Any] = []
        for turn in ("first_seconds", "seconds"):
            if group.rank_in_group == 0 and files:
                record["cached"] = establish(files, "cold")
                if turn == "seconds":
                    record["host_wait_seconds"] = wait_for_host()
            group.barrier()
            loaded.clear()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            config = copy.deepcopy(self.vllm_config)
            config.model_config.model = path
            config.compilation_config.static_forward_context.clear()
            found = _load(config, load_format, extra, loaded)
            record |= {turn: found["seconds"], "nbytes": found["nbytes"], "sum": found["sum"]}
        if load_format == "ckptfmt":
            from ckptfmt.vllm.report import load_reports

            record["strategy"] = load_reports()[-1].strategy
        return record


def _load(
    config: Any, load_format: str, extra: dict[str, Any], loaded: list[Any]
) -> dict[str, Any]:
    """Make a model and load it, as vLLM does; time what the loader needs for the weights."""
    from vllm.config import set_current_vllm_config
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    config.load_config = LoadConfig(
        load_format=load_format, model_loader_extra_config=extra, use_tqdm_on_load=False
    )
    loader = get_model_loader(config.load_config)
    load_weights, found = loader.load_weights, {}

    def timed(model: Any, model_config: Any) -> None:
        began = time.perf_counter()
        load_weights(model, model_config)
        found["seconds"] = time.perf_counter() - began
        parameters = [p.data for p in model.parameters()]
        found["nbytes"] = sum(p.nbytes for p in parameters)
        found["sum"] = sum(map(_sum, parameters))  # before vLLM packs them

    loader.load_weights = timed
    with set_current_vllm_config(config):
        loaded.append(
            loader.load_model(vllm_config=config, model_config=config.model_config)
        )
    return found


def _sum(parameter: Any) -> int:
    """Of its 16-bit words."""
    import numpy as np
    import torch

    words = parameter.contiguous().view(-1).view(torch.uint8).numpy().view(np.uint16)
    return int(words.sum(dtype=np.uint64))
