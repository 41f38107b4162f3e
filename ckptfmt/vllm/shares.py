"""Which part of a stored tensor a rank's layer takes, told by the layers of the model.

vLLM gives a loader the model and takes whole tensors: each parameter's own loader cuts out what its
rank needs. What that will be is foreseen here for layers whose loader is vLLM's own, and only
foreseen: a `PartialTensor` gives the whole if the parameter's loader wants something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vllm.model_executor.layers import linear
from vllm.model_executor.layers import vocab_parallel_embedding as embedding

from ckptfmt.vllm.partial import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch


class Share(NamedTuple):
    """From ``start`` to ``stop`` of the ``whole`` of one dimension."""

    dim: int
    start: int
    stop: int
    whole: int


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

        None if that is all of it, or is not foreseen, or if layers of several names differ.
        """
        found = {share for name in names if (share := self.of(name)) is not None}
        if len(found) != 1:
            return None
        (share,) = found
        if share.dim >= len(shape) or shape[share.dim] != share.whole:
            return None
        return Part(share.dim, share.start, share.stop)

    def of(self, name: str) -> Share | None:
        """What the layer takes that a name is stored for; None if it is all, or not foreseen."""
        path, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            return None
        for layer, number in self._layers(name, path):
            module = self._modules.get(layer)
            if module is not None:
                share = _share(module, number)
                if share is not None and share.stop - share.start < share.whole:
                    return share
        return None

    def _layers(self, name: str, path: str) -> Iterator[tuple[str, int | None]]:
        """Where a stored layer may have gone: a layer's name, and which part of it that is."""
        if self._mapper is not None:
            # By the method that tells the part as well; older mappers know nothing of parts.
            map_name: Any = getattr(self._mapper, "_map_name_with_shard", None)
            if map_name is not None:
                mapped, shard = map_name(name) or (name, None)
            else:
                mapped, shard = next(iter(self._mapper.apply_list([name])), name), None
            path = mapped.rpartition(".")[0]
            if shard is not None:
                number = _PARTS.get(shard, shard)
                yield path, number if isinstance(number, int) else None
                return
        yield path, None
        above, dot, last = path.rpartition(".")
        if last in self._packed:
            packed, number = self._packed[last]
            yield f"{above}{dot}{packed}", number


#: What vLLM calls the parts of a layer of queries, keys and values.
_PARTS: dict[Any, int] = {"q": 0, "k": 1, "v": 2}


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
    """Query heads are cut; key and value heads too, as long as there is one for each rank."""
    size = getattr(module, "v_head_size", module.head_size) if number == 2 else module.head_size
    if number == 0:
        return _cut(module.total_num_heads * size, module)
    count = module.num_kv_heads * size
    start = module.tp_rank // module.num_kv_head_replicas * count
    return Share(0, start, start + count, module.total_num_kv_heads * size)
