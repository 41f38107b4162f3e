"""Reloading by rank: into a model that has been processed and is running.

vLLM reloads layer by layer. It takes a layer's tensors away, waits until each has been loaded anew,
processes the layer as after its first loading, and copies the outcome to where the old one is. Each
tensor's loader tells it what has come; here that loader copies the tensor as a whole.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import LoadMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def is_supported() -> bool:
    """Whether this vLLM reloads in a way that is known here."""
    try:
        from vllm.model_executor.layers.attention import (  # noqa: PLC0415, F401
            is_deferred_attention_layer,
        )
        from vllm.model_executor.model_loader.reload.layerwise import (  # noqa: PLC0415, F401
            make_online_process_loader,
        )
    except ImportError:
        return False
    return True


def refill(model: Any, tensors: Iterable[tuple[str, Any]], path: str) -> int:
    """Give every layer its tensors.

    Parameters
    ----------
    model : torch.nn.Module
        While vLLM reloads it: its layers wait for tensors.
    tensors : iterable of (str, Tensor)
        This rank's, as they are read.
    path : str
        Where from, for messages.

    Returns
    -------
    int
        Bytes that layers have been given.
    """
    from vllm.model_executor.layers.attention import (  # noqa: PLC0415
        is_deferred_attention_layer,
    )

    layers = dict(model.named_modules())
    nbytes = 0
    with _loading_whole(layers.values()):
        for name, tensor in tensors:
            above, _, kind = name.rpartition(".")
            layer = layers.get(above)
            if layer is None:  # another name of a layer that was met
                continue
            wanted = getattr(layer, kind, None)
            if wanted is None:
                raise LoadMismatchError(f"{path}: {name} is not among the tensors here")
            # What attention has beside weights stays in place, and is not taken anew by vLLM.
            if is_deferred_attention_layer(layer):
                continue
            loader: Any = getattr(wanted, "weight_loader", None)
            load = loader if _is_waiting(loader) else _whole
            load(wanted, tensor)
            nbytes += tensor.nbytes
    return nbytes


def _whole(param: Any, loaded_weight: Any) -> None:
    param.data.copy_(loaded_weight)


def _is_waiting(loader: Any) -> bool:
    """Whether this is the loader by which vLLM waits for a tensor."""
    return getattr(loader, "__name__", "") == "online_process_loader"


@contextmanager
def _loading_whole(layers: Any) -> Iterator[None]:
    """Let tensors that vLLM waits for be loaded as they are; it keeps them for the next time."""
    from vllm.model_executor.model_loader.reload.layerwise import (  # noqa: PLC0415
        make_online_process_loader,
    )

    before = []
    try:
        for layer in layers:
            for name, tensor in {**layer._parameters, **layer._buffers}.items():
                loader: Any = getattr(tensor, "weight_loader", None)
                if not _is_waiting(loader):
                    continue
                if not tensor.is_meta:  # it is the running layer's own: vLLM unwraps it at the end
                    while _is_waiting(loader):
                        loader = loader.__wrapped__
                before.append((tensor, loader))
                tensor.weight_loader = _whole
                tensor.weight_loader = make_online_process_loader(layer, name)
        yield
    finally:
        for tensor, loader in before:
            tensor.weight_loader = loader
