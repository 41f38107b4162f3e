"""Which part of a stored tensor a rank's layer takes, told by the layers of the model.

vLLM gives a loader the model and takes whole tensors: each parameter's own loader cuts out what its
rank needs. What that will be is foreseen here for layers whose loader is vLLM's own, and only
foreseen: a `PartialTensor` gives the whole if the parameter's loader wants something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm.model_executor.layers import linear
from vllm.model_executor.layers import vocab_parallel_embedding as embedding

from ckptfmt.vllm.partial import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch


class Share(NamedTuple):
    """From ``start`` to ``stop`` of one dimension, which has ``whole`` in the stored tensor."""

    dim: int
    start: int
    stop: int
    whole: int


#: Experts that are stored one by one; which of their weights are cut along which dimension.
_EXPERT = re.compile(r".*\bexperts\.[0-9]+\.(gate_proj|up_proj|w1|w3|down_proj|w2)\.weight")
_EXPERT_DIMS = {"gate_proj": 0, "up_proj": 0, "w1": 0, "w3": 0, "down_proj": 1, "w2": 1}


class Shares:
    """What each layer of a model takes of the tensors that are stored for it.

    Parameters
    ----------
    model : torch.nn.Module
        As vLLM made it on this rank.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._mapper: Any = getattr(model, "hf_to_vllm_mapper", None)
        packed = getattr(model, "packed_modules_mapping", None) or {}
        #: Where a stored layer has gone: its layer in vLLM, and which part of it that is.
        self._packed = {
            part: (name, number)
            for name, parts in packed.items()
            for number, part in enumerate(parts)
            if part != name
        }

    def agreed(self, names: Iterable[str], shape: Sequence[int]) -> Part | None:
        """The part that this rank needs of a tensor, which has one or several names.

        It may be all of it. None if it is not foreseen, or if layers of several names differ.
        """
        found = {share for name in names if (share := self.of(name, shape)) is not None}
        if len(found) != 1:
            return None
        (share,) = found
        if share.dim >= len(shape) or shape[share.dim] != share.whole:
            return None
        return Part(share.dim, share.start, share.stop)

    def of(self, name: str, shape: Sequence[int]) -> Share | None:
        """What the layer takes that a name is stored for; None if it is not foreseen."""
        expert = _EXPERT.fullmatch(name)
        if expert is not None and len(shape) == 2:
            return self._of_expert(name, shape, _EXPERT_DIMS[expert[1]])
        if not name.endswith((".weight", ".bias")):
            return None
        for layer, number in self._layers(name):
            module = self._modules.get(layer)
            if module is not None:
                share = _share(module, number)
                if share is not None:
                    return share
        return None

    def _of_expert(self, name: str, shape: Sequence[int], dim: int) -> Share | None:
        """Experts are cut like other layers, or, each as a whole, given to different ranks."""
        path = self._mapped(name)[0].rpartition(".experts.")[0] + ".experts"
        for layer in (path, f"{path}.routed_experts"):
            module: Any = self._modules.get(layer)
            ranks = getattr(getattr(module, "moe_config", None), "moe_parallel_config", None)
            method = type(getattr(module, "quant_method", None))
            if ranks is not None and method.__name__.endswith("UnquantizedFusedMoEMethod"):
                count = shape[dim] // ranks.tp_size
                start = ranks.tp_rank * count
                return Share(dim, start, start + count, shape[dim]) if ranks.tp_size > 1 else None
        return None

    def _mapped(self, name: str) -> tuple[str, Any]:
        """What the model calls a stored tensor, and the part that it is of that, if it says so."""
        if self._mapper is None:
            return name, None
        with_shard: Any = getattr(self._mapper, "_map_name_with_shard", None)
        if with_shard is not None:
            return with_shard(name) or (name, None)
        # An older one, which knows nothing of parts.
        return next(iter(self._mapper.apply_list([name])), name), None

    def _layers(self, name: str) -> Iterator[tuple[str, int | None]]:
        """Where a stored layer may have gone: a layer's name, and which part of it that is."""
        mapped, shard = self._mapped(name)
        path = mapped.rpartition(".")[0]
        if shard is not None:
            # What is several parts at once is of none.
            number = _PARTS.get(shard) if isinstance(shard, str) else shard
            yield path, number if isinstance(number, int) else None
            return
        yield path, None
        above, dot, last = path.rpartition(".")
        if last in self._packed:
            packed, number = self._packed[last]
            yield f"{above}{dot}{packed}", number


#: What vLLM calls the parts of a layer of queries, keys and values.
_PARTS = {"q": 0, "k": 1, "v": 2}


def _share(module: torch.nn.Module, number: int | None) -> Share | None:
    """What a layer takes of the tensor for it, or for one of its parts."""
    kind, method, found = type(module), getattr(module, "quant_method", None), None
    if isinstance(method, embedding.UnquantizedEmbeddingMethod):
        if number is None and _loads_as(kind, embedding.VocabParallelEmbedding):
            found = _of_words(module)
    elif isinstance(method, linear.UnquantizedLinearMethod):
        if number is None and _loads_as(kind, linear.ColumnParallelLinear):
            found = _cut(module.output_size, module)
        elif number is not None and _loads_as(kind, linear.MergedColumnParallelLinear):
            found = _cut(module.output_sizes[number], module)
        elif number is not None and _loads_as(kind, linear.QKVParallelLinear):
            found = _of_heads(module, number)
        elif number is None and _loads_as(kind, linear.RowParallelLinear):
            found = _cut(module.input_size, module, dim=1)
    return found


def _loads_as(kind: type, vllm_s: Any) -> bool:
    """Whether a class takes weights as vLLM's own does: itself, or one that changes other things.

    vllm-ascend replaces layers by such classes.
    """
    return issubclass(kind, vllm_s) and all(
        getattr(kind, name, None) is getattr(vllm_s, name, None)
        for name in ("weight_loader", "weight_loader_v2")
    )


def _cut(whole: Any, module: Any, dim: int = 0) -> Share:
    count = whole // module.tp_size
    return Share(dim, module.tp_rank * count, (module.tp_rank + 1) * count, whole)


def _of_words(module: Any) -> Share:
    words = module.shard_indices
    return Share(0, words.org_vocab_start_index, words.org_vocab_end_index, module.org_vocab_size)


def _of_heads(module: Any, number: int) -> Share:
    """Query heads are cut; key and value heads too, and those that are too few go to several."""
    size = getattr(module, "v_head_size", module.head_size) if number == 2 else module.head_size
    if number == 0:
        return _cut(module.total_num_heads * size, module)
    count = module.num_kv_heads * size
    start = module.tp_rank // module.num_kv_head_replicas * count
    return Share(0, start, start + count, module.total_num_kv_heads * size)
