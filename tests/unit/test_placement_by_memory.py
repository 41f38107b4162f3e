"""Placement by free memory: modules are spread in order, balanced, and never torn apart."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import pytest

from ckptfmt.errors import OptionError, OutOfMemoryError
from ckptfmt.placement import LAYER_LISTS, RESERVE_SHARE
from tests.helpers.indexes import MIB, make_index, spec
from tests.helpers.placements import LARGE, layers, model_of, placed, positions, small_model


def test_one_device_is_not_asked_for_its_memory() -> None:
    assert set(placed(small_model(), "auto", free={"npu:2": 0}).values()) == {"npu:2"}


@pytest.mark.parametrize("free", [None, {}])
def test_without_devices_there_is_nothing_to_choose(free: dict[str, int] | None) -> None:
    with pytest.raises(OptionError, match="'auto', but there are no devices"):
        placed(small_model(), "auto", free=free)


def test_devices_are_filled_in_order_of_their_numbers() -> None:
    free = {"npu:10": LARGE, "npu:9": LARGE, "npu": LARGE}
    found = placed(model_of(layers(6)), "auto", free=free)
    assert list(found.values()) == [d for d in ("npu:0", "npu:9", "npu:10") for _ in range(2)]


def test_shares_go_by_free_memory() -> None:
    found = placed(model_of(layers(12)), "auto", free={"npu:0": LARGE, "npu:1": 3 * LARGE})
    assert list(found.values()) == ["npu:0"] * 3 + ["npu:1"] * 9


def test_a_device_ends_as_near_to_its_share_as_modules_allow() -> None:
    free = {"npu:0": LARGE, "npu:1": LARGE, "npu:2": LARGE}
    found = placed(model_of(layers(5)), "auto", free=free)
    assert list(found.values()) == ["npu:0", "npu:0", "npu:1", "npu:2", "npu:2"]


def test_layers_come_in_order_of_their_numbers_whatever_the_files() -> None:
    sizes = dict(sorted({**layers(12), "a.weight": MIB, "z.weight": MIB}.items()))
    assert list(sizes)[3] == "model.layers.10.mlp.weight"
    found = placed(model_of(sizes), "auto", free={"npu:0": LARGE, "npu:1": LARGE})
    first = {name for name, device in found.items() if device == "npu:0"}
    assert first == {"a.weight", *layers(6)}


@pytest.mark.parametrize("name", LAYER_LISTS)
def test_layers_are_not_split(name: str) -> None:
    sizes = {
        f"{name}.{layer}.{part}.{inner}.weight": MIB
        for layer in range(2)
        for part in ("a", "b", "layers.0", "experts.7")
        for inner in ("x", "y")
    }
    found = placed(model_of(sizes), "auto", free={"npu:0": LARGE, "npu:1": 3 * LARGE})
    for layer in range(2):
        assert len({d for n, d in found.items() if n.startswith(f"{name}.{layer}.")}) == 1


def test_other_modules_are_split_into_those_that_hold_tensors() -> None:
    sizes = {f"expert.{i}.{part}": MIB for i in range(4) for part in ("weight", "scale")}
    free = {"npu:0": LARGE, "npu:1": LARGE}
    assert len(set(placed(model_of(sizes), "auto", free=free).values())) == 2
    whole = placed(model_of(sizes), "auto", free=free, no_split=["expert"])
    assert len(set(whole.values())) == 1
    pairs = placed(model_of(sizes), "auto", free=free, no_split="expert.[01]")
    assert pairs["expert.0.scale"] == pairs["expert.0.weight"]


def test_a_pattern_that_matches_no_module_is_refused() -> None:
    free = {"npu:0": LARGE, "npu:1": LARGE}
    with pytest.raises(OptionError, match="'LlamaDecoderLayer', which matches no module") as caught:
        placed(small_model(), "auto", free=free, no_split=["model.*", "LlamaDecoderLayer"])
    assert caught.value.hint is not None
    with pytest.raises(OptionError, match=r"'lm_head\.weight', which matches no module"):
        placed(small_model(), "auto", free={"npu:0": 1}, no_split=["lm_head.weight"])


def test_modules_with_tied_names_go_together() -> None:
    sizes = {"embed.weight": MIB, **layers(8), "head.bias": 4096, "norm.weight": 4096}
    made = model_of(sizes, {"embed.weight": ["head.weight"]})
    found = placed(made, "auto", free={"npu:0": LARGE, "npu:1": LARGE})
    assert found["embed.weight"] == found["head.weight"] == found["head.bias"] == "npu:0"
    assert found["norm.weight"] == found["model.layers.7.mlp.weight"] == "npu:1"
    # Unless the names that tie them are not wanted.
    rest = placed(made, "auto", ["embed.weight", *layers(8), "head.bias"],
                  free={"npu:0": LARGE, "npu:1": LARGE})  # fmt: skip
    assert (rest["embed.weight"], rest["head.bias"]) == ("npu:0", "npu:1")


@pytest.mark.parametrize("first", "abcdefgh")
def test_modules_with_tied_names_stand_where_the_first_of_them_does(first: str) -> None:
    sizes = {f"{first}.weight": 4096, **layers(8), "z.weight": 4096}
    made = model_of(sizes, {"z.weight": [f"{first}.bias"]})
    found = placed(made, "auto", free={"npu:0": LARGE, "npu:1": LARGE})
    assert found[f"{first}.weight"] == found["z.weight"] == "npu:0"


def test_a_long_chain_of_ties_is_one_unit() -> None:
    count = 3000
    sizes = {f"m{i}.w": 4096 for i in reversed(range(count))}
    made = model_of(sizes, {f"m{i}.w": [f"m{i - 1}.v"] for i in range(1, count)})
    found = placed(made, "auto", free={"npu:0": LARGE, "npu:1": LARGE})
    assert len(set(found.values())) == 1


def free_for(nbytes: int) -> int:
    """Free memory of which `nbytes` may be used."""
    found = max(nbytes * RESERVE_SHARE // (RESERVE_SHARE - 1) - 2, 0)
    while found - found // RESERVE_SHARE < nbytes:
        found += 1
    return found


def test_a_share_of_the_free_memory_is_left() -> None:
    made = model_of(layers(4))
    enough = {"npu:0": free_for(2 * MIB), "npu:1": free_for(2 * MIB)}
    assert enough["npu:0"] > 2 * MIB
    assert list(placed(made, "auto", free=enough).values()) == ["npu:0"] * 2 + ["npu:1"] * 2
    with pytest.raises(OutOfMemoryError):
        placed(made, "auto", free={**enough, "npu:1": 2 * MIB})


def test_what_does_not_fit_is_named_with_all_sizes() -> None:
    made = model_of(layers(4))
    with pytest.raises(OutOfMemoryError) as caught:
        placed(made, "auto", free={"npu:0": 2_300_000, "npu:1": 1_000_000})
    assert str(caught.value) == (
        "the tensors need 4.19 MB: npu:0 takes 2.10 MB of 2.30 MB free, npu:1 takes 0 B of "
        "1.00 MB free, and 'model.layers.2' (1.05 MB) fits nowhere"
    )
    assert caught.value.hint is not None
    assert "1/16" in caught.value.hint


def test_a_device_too_small_for_the_first_module_is_passed_over() -> None:
    sizes = {"embed.weight": 8 * MIB, **layers(4)}
    free = {"npu:0": free_for(3 * MIB), "npu:1": free_for(16 * MIB)}
    assert set(placed(model_of(sizes), "auto", free=free).values()) == {"npu:1"}


def test_what_fits_in_no_order_of_the_file_is_placed_by_size() -> None:
    sizes = {"a.w": 3 * MIB, "b.w": 8 * MIB, "c.w": 7 * MIB, "d.w": 2 * MIB}
    free = {"npu:0": free_for(10 * MIB), "npu:1": free_for(10 * MIB)}
    found = placed(model_of(sizes), "auto", free=free)
    assert found == {"b.w": "npu:0", "c.w": "npu:1", "a.w": "npu:1", "d.w": "npu:0"}


def test_empty_tensors_need_no_memory() -> None:
    made = make_index([spec("a.w", "F32", 0), spec("b.w", "F32", 0, 7)])
    assert placed(made, "auto", free={"npu:0": 0, "npu:1": 0}) == {"a.w": "npu:0", "b.w": "npu:0"}


def unit_of(name: str, ties: Mapping[str, str]) -> str:
    """What may not be torn apart, by the rule as it is told to people."""
    name = ties.get(name, name)
    module = name.rpartition(".")[0]
    found = re.match(r"(.*?\.)??(layers|h|blocks)\.\d+(?=\.|$)", module)
    return found[0] if found else module or name


@pytest.mark.parametrize("seed", range(60))
def test_any_model_is_placed_whole_balanced_and_alike(seed: int) -> None:
    rng = random.Random(seed)
    prefix = rng.choice(["model.layers", "transformer.h", "visual.blocks", "层.layers"])
    sizes: dict[str, int] = {}
    for layer in range(rng.randint(1, 20)):
        for part in ("attn.q", "attn.k", "mlp.layers.3.up", "norm"):
            sizes[f"{prefix}.{layer}.{part}.weight"] = rng.choice([0, 10, 5000, 100_000])
    for i in range(rng.randint(1, 4)):
        sizes[f"extra{i}.weight"] = rng.randrange(300_000)
        sizes[f"extra{i}.bias"] = 100
    sizes[rng.choice(["alone", ""])] = 50
    names = list(sizes)
    rng.shuffle(names)
    # The head shares a tensor with some other module, and has one of its own.
    other = rng.choice(names)
    made = model_of({**{n: sizes[n] for n in names}, "head.bias": 70}, {other: ["head.weight"]})
    devices = [f"npu:{i}" for i in range(rng.randint(2, 5))]
    free = {device: rng.randrange(1 << 30, 8 << 30) for device in devices}
    found = placed(made, "auto", free=free)

    assert found == placed(made, "auto", free=dict(reversed(free.items())))
    assert set(found) == {*names, "head.bias", "head.weight"}
    homes: dict[str, set[str]] = {}
    nbytes: dict[str, int] = {}
    ties = {"head.weight": other, "head.bias": other}
    for name, device in found.items():
        unit = unit_of(name, ties)
        homes.setdefault(unit, set()).add(device)
        if name != "head.weight":
            size = made.tensors[positions(made)[name]].nbytes
            nbytes[unit] = nbytes.get(unit, 0) + -(-size // 4096) * 4096
    assert all(len(home) == 1 for home in homes.values())
    total = sum(nbytes.values())
    for device in devices:
        load = sum(nbytes[unit] for unit, home in homes.items() if home == {device})
        share = total * free[device] / sum(free.values())
        assert abs(load - share) <= max(nbytes.values()) + 2  # shares are whole bytes
    # Of the layers, each device has a run, but for the one that moved to where the head is.
    joined = unit_of(other, {})
    run = [homes[f"{prefix}.{i}"] for i in range(20) if f"{prefix}.{i}" in homes]
    run = [h for i, h in enumerate(run) if f"{prefix}.{i}" != joined]
    numbers = [int(next(iter(home)).partition(":")[2]) for home in run]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_fits_is_placed_within_the_limits(seed: int) -> None:
    rng = random.Random(seed)
    sizes = {f"m{i}.w": 4096 * rng.randint(0, 50) for i in range(rng.randint(1, 12))}
    made = model_of(sizes)
    limits = [4096 * rng.randint(0, 200) for _ in range(rng.randint(2, 4))]
    free = {f"npu:{i}": free_for(limit) for i, limit in enumerate(limits)}
    try:
        found = placed(made, "auto", free=free)
    except OutOfMemoryError:
        # Then no cut of the file's order into pieces fits either.
        assert not fits(list(sizes.values()), limits)
        return
    for i, limit in enumerate(limits):
        assert sum(sizes[n] for n, device in found.items() if device == f"npu:{i}") <= limit


def fits(sizes: list[int], limits: list[int]) -> bool:
    """Whether a run of sizes goes to each limit, found by trying."""
    if not limits:
        return not any(sizes)
    return any(
        sum(sizes[:n]) <= limits[0] and fits(sizes[n:], limits[1:]) for n in range(len(sizes) + 1)
    )
