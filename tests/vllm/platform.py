"""What vllm-ascend does to vLLM, as its source (0.23.0) has it, when one of its workers is made.

That is after plugins have been loaded: layers are replaced by classes of its own, and the function
that processes weights afterwards is bound anew in the module of the base loader.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.custom_op import PluggableLayer
from vllm.model_executor.layers import linear
from vllm.model_executor.model_loader import base_loader

from tests.vllm.engine import Extension

_process = base_loader.process_weights_after_loading
_processed: list[str] = []


def _process_as_platform(model: Any, model_config: Any, target_device: Any) -> None:
    _processed.append(type(model).__name__)
    _process(model, model_config, target_device)


base_loader.process_weights_after_loading = _process_as_platform
for _name in ("QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear"):
    PluggableLayer.register_oot(name=_name)(type(f"Ascend{_name}", (getattr(linear, _name),), {}))


class Platform(Extension):
    """Imported by each worker as it is made."""

    def ckptfmt_reports(self) -> list[dict[str, Any]]:
        """With what was processed, and which classes layers have."""
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        kinds = sorted({type(m).__name__ for m in model.modules() if "Ascend" in type(m).__name__})
        return [{**r, "processed": _processed, "kinds": kinds} for r in super().ckptfmt_reports()]
