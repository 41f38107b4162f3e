"""vllm-ascend as it is installed, on the vLLM it is for; run by the Python of vLLM.

    python -m tests.vllm.ascend FOLDER ANOTHER

Its wheel, that of its vLLM and that of torch_npu lie first on the path; torch_npu runs on the
simulated runtime (docs/simulator.md). Loads models to ``npu:0`` from ``FOLDER.ckpt``, and by vLLM's
own loader from the folder; prints what there was to see, as one line of JSON.

Something stands in for what is not there and has nothing to do with loading: for the modules of
`ABSENT`, and for the operators that fill the table of positions, which run on the CPU.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from tests.vllm.engine import FOUND

FORMATS = ("ckptfmt", "netloader", "rfork")
#: Of CANN: copies for the sleep mode. The others: images, and the placing of experts.
ABSENT = ("acl", "scipy", "torchvision")


class _Anything(ModuleType):
    """A module that has whatever is asked for."""

    __version__ = "1.16.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)


class _Absent:
    """Finds the modules that are not there, after all others have looked."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_absent = name.split(".", maxsplit=1)[0] in ABSENT
        return ModuleSpec(name, self, is_package=True) if is_absent else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def full_name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def formats() -> dict[str, str]:
    """What vLLM would make for each."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor import model_loader

    def one(name: str) -> str:
        extra = {"max_nbytes": "1MiB"} if name == "ckptfmt" else {}
        config = LoadConfig(load_format=name, model_loader_extra_config=extra)
        return full_name(type(model_loader.get_model_loader(config)))

    known = model_loader._LOAD_FORMAT_TO_MODEL_LOADER
    return {name: one(name) for name in FORMATS if name in known}


def registered() -> list[dict[str, str]]:
    """As vLLM loads the plugins; then only the two, one after the other, in either order."""
    from vllm.model_executor import model_loader
    from vllm.plugins import load_general_plugins

    import ckptfmt.vllm

    load_general_plugins()
    found = [formats()]
    ours, theirs = (
        entry_points(group="vllm.general_plugins", name=name)[name]
        for name in ("ckptfmt", "ascend_model_loader")
    )
    for order in ((ours, theirs), (theirs, ours)):
        for name in FORMATS:
            del model_loader._LOAD_FORMAT_TO_MODEL_LOADER[name]
        ckptfmt.vllm._registered.clear()
        for name in [name for name in sys.modules if name.startswith("vllm_ascend.model_loader")]:
            del sys.modules[name]  # it registers by being imported
        for plugin in order:
            plugin.load()()
        found.append(formats())
    return found


def configure(path: str, load_format: str) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128}
    return EngineArgs(model=path, load_format=load_format, **options).create_engine_config()


def patch_worker() -> dict[str, Any]:
    """What one of its workers does to vLLM as it is made, and what it loads a model by."""
    from vllm_ascend.utils import adapt_patch

    adapt_patch()
    from vllm.model_executor import model_loader
    from vllm.model_executor.model_loader import base_loader
    from vllm_ascend.spec_decode import llm_base_proposer
    from vllm_ascend.worker import model_runner_v1, worker

    from ckptfmt.vllm import WorkerExtension

    process = base_loader.process_weights_after_loading
    own = {name for name in vars(WorkerExtension) if not name.startswith("__")}
    return {
        "processes": full_name(process),
        "runner_calls_vllm_s": model_runner_v1.get_model is model_loader.get_model,
        "draft_calls_vllm_s": llm_base_proposer.get_model is model_loader.get_model,
        "worker_reloads": hasattr(worker.NPUWorker, "reload_weights"),
        "extension_clashes": sorted(own & set(dir(worker.NPUWorker))),
    }


def load_by_vllm(folder: str) -> Any:
    """The model, in vllm-ascend's layers, by vLLM's own loader."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model

    config = configure(folder, "auto")
    with set_current_vllm_config(config):
        return get_model(vllm_config=config)


def runner_of(config: Any) -> Any:
    """vllm-ascend's model runner, with no more of its state than loading needs."""
    from vllm_ascend.ascend_config import get_ascend_config
    from vllm_ascend.worker.model_runner_v1 import NPUModelRunner

    runner = object.__new__(NPUModelRunner)
    vars(runner).update(
        vllm_config=config, model_config=config.model_config, load_config=config.load_config,
        compilation_config=config.compilation_config, ascend_config=get_ascend_config(),
        eplb_enable=False, drafter=None, lora_config=None, use_aux_hidden_state_outputs=False,
    )  # fmt: skip
    return runner


def start(config: Any) -> None:
    """One rank, and vllm-ascend's layers, as its worker registers them."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
    from vllm.utils.network_utils import get_open_port
    from vllm_ascend.utils import register_ascend_customop

    with set_current_vllm_config(config):
        register_ascend_customop(config)
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{get_open_port()}", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
    compute = RotaryEmbedding._compute_cos_sin_cache

    def compute_on_cpu(self: Any) -> Any:
        with torch.device("cpu"):
            return compute(self)

    RotaryEmbedding._compute_cos_sin_cache = compute_on_cpu


def watch() -> list[str]:
    """Of which models the weights are processed by what is bound now."""
    from vllm.model_executor.model_loader import base_loader

    process, seen = base_loader.process_weights_after_loading, []

    def watched(model: Any, model_config: Any, target_device: Any) -> None:
        seen.append(f"{type(model).__name__} on {target_device}")
        process(model, model_config, target_device)

    base_loader.process_weights_after_loading = watched
    return seen


def compared(ours: Any, theirs: Any) -> dict[str, bool]:
    """Whether each tensor is the same on both sides, which have the same names."""
    import torch

    ours, theirs = dict(ours), dict(theirs)
    assert sorted(ours) == sorted(theirs)
    return {name: torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours}


def loaded(first: str, second: str, found: dict[str, Any]) -> None:
    """By the model runner, then once more from the other checkpoint, as a worker is told to."""
    import safetensors.torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model_loader

    from ckptfmt.vllm import WorkerExtension
    from ckptfmt.vllm.report import load_reports

    config = configure(f"{first}.ckpt", "ckptfmt")
    start(config)
    found["processed"] = watch()
    worker = WorkerExtension()
    worker.vllm_config, worker.model_runner = config, runner_of(config)
    with set_current_vllm_config(config):
        worker.model_runner.load_model()
        model = worker.model_runner.model
        loader = get_model_loader(config.load_config)
        given = {n: t.clone() for n, t in loader.get_all_weights(config.model_config, model)}
    found["kinds"] = sorted({full_name(type(module)) for module in model.modules()})
    found["loaded"] = compared(model.named_parameters(), load_by_vllm(first).named_parameters())
    found["given"] = compared(given, safetensors.torch.load_file(f"{first}/model.safetensors"))
    worker.ckptfmt_reload_weights(weights_path=f"{second}.ckpt")
    found["reloaded"] = compared(model.named_parameters(), load_by_vllm(second).named_parameters())
    found["devices"] = sorted({str(t.device) for t in (*model.parameters(), *given.values())})
    found["reports"] = [dataclasses.asdict(report) for report in load_reports()]


def main(first: str, second: str) -> None:
    """Go through it, in the order of a worker's process."""
    from vllm.platforms import current_platform

    plugins = entry_points(group="vllm.general_plugins")
    found: dict[str, Any] = {
        "versions": {p.name: f"{p.dist.name} {p.dist.version}" for p in plugins if p.dist},
        "platform": full_name(type(current_platform)),
        "registered": registered(),
    }
    # Up to here, nothing has stood in for anything.
    sys.meta_path.append(_Absent())  # type: ignore[arg-type]
    found["patched"] = patch_worker()
    registry = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = lambda function: function()  # half a minute less
    loaded(first, second, found)
    print(FOUND + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
