"""Models by the names and sizes of their tensors, to be placed on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptfmt.index import Index
from ckptfmt.placement import place
from tests.helpers.indexes import MIB, make_index, spec

#: Bytes free, more than anything here needs.
LARGE = 1 << 40


def model_of(sizes: Mapping[str, int], tied: Mapping[str, Sequence[str]] | None = None) -> Index:
    """Tensors by name with so many bytes each; `tied` has further names of some."""
    tied = tied or {}
    return make_index([spec((n, *tied.get(n, ())), "U8", size) for n, size in sizes.items()])


def small_model() -> Index:
    """Some layers, one with a tensor of its own, and what is around them."""
    return model_of({
        "model.embed.weight": 4096, "model.layers.0.up.weight": 4096,
        "model.layers.1.up.weight": 4096, "model.layers.1.norm": 10,
        "model.layers.10.up.weight": 4096, "model.norm.weight": 10, "lm_head.weight": 4096,
    })  # fmt: skip


def layers(count: int, nbytes: int = MIB) -> dict[str, int]:
    """Sizes of so many layers of one tensor."""
    return {f"model.layers.{i}.mlp.weight": nbytes for i in range(count)}


def positions(made: Index) -> dict[str, int]:
    """All names."""
    return {name: p for p, tensor in enumerate(made.tensors) for name in tensor.names}


def placed(
    made: Index,
    device: str | Mapping[str, str],
    chosen: Sequence[str] | None = None,
    *,
    free: Mapping[str, int] | None = None,
    no_split: str | Sequence[str] = (),
) -> dict[str, str]:
    """Devices by name; each chosen position has one."""
    names = positions(made)
    wanted = names if chosen is None else {name: names[name] for name in chosen}
    found = place(made, wanted, device, free=free, no_split=no_split)
    assert list(found) == sorted(set(wanted.values()))
    return {name: found[position] for name, position in wanted.items()}
