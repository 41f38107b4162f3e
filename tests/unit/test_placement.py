"""Placement by one device and by maps, as people write them."""

from __future__ import annotations

import re

import pytest

from ckptfmt.errors import OptionError
from ckptfmt.placement import normalize
from tests.helpers.placements import LARGE, model_of, placed, small_model


class Spelled:
    """Something that prints as a device, as torch's own class does."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


# ---- the spelling of devices ----


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cpu", "cpu"), ("npu", "npu:0"), ("npu:3", "npu:3"), ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"), ("npu:127", "npu:127"), (Spelled("npu:1"), "npu:1"),
        (Spelled("cpu"), "cpu"),
    ],
)  # fmt: skip
def test_a_device_has_one_spelling(given: object, expected: str) -> None:
    assert normalize(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "", "auto", "CPU", "npu:", "npu:-1", "npu:01", "npu:1.0", "npu: 1", " npu", "npu\n",
        "npu:1\n", "npu:12345", "cpu:0", "meta", "disk", "xpu:0", "npu:٣", None, True, 3.5,
    ],
)  # fmt: skip
def test_what_is_no_device_is_refused(given: object) -> None:
    with pytest.raises(OptionError) as caught:
        normalize(given)
    assert str(caught.value) == (
        f"device is {str(given)!r}, expected 'cpu', 'npu', 'npu:N', 'cuda' or 'cuda:N'"
    )


def test_a_number_alone_is_no_device() -> None:
    with pytest.raises(OptionError) as caught:
        normalize(1)
    assert caught.value.hint == "a number alone names no kind of device: 'npu:1'"


@pytest.mark.parametrize("device", ["npu", Spelled("npu:0")])
def test_one_device_gets_everything(device: str) -> None:
    assert set(placed(small_model(), device).values()) == {"npu:0"}


def test_only_what_is_chosen_is_placed() -> None:
    assert placed(small_model(), "cpu", ["lm_head.weight"]) == {"lm_head.weight": "cpu"}
    assert placed(small_model(), "auto", [], free={"npu": 5, "npu:1": 5}) == {}
    assert placed(small_model(), {"": "npu"}, []) == {}


# ---- by a map ----


def test_keys_match_at_dots_and_the_longest_wins() -> None:
    devices = {"model": "npu:1", "model.layers.1": "npu:2", "model.layers.1.norm": "cpu", "": "npu"}
    assert placed(small_model(), devices) == {
        "model.embed.weight": "npu:1", "model.layers.0.up.weight": "npu:1",
        "model.layers.1.up.weight": "npu:2", "model.layers.1.norm": "cpu",
        "model.layers.10.up.weight": "npu:1", "model.norm.weight": "npu:1",
        "lm_head.weight": "npu:0",
    }  # fmt: skip


def test_a_key_may_name_one_tensor() -> None:
    found = placed(small_model(), {"model.layers.1.norm": "npu:1", "": "npu:0"})
    assert [name for name, device in found.items() if device == "npu:1"] == ["model.layers.1.norm"]


@pytest.mark.parametrize(
    "names",
    [
        ["", "a", "a.", ".a", "..", "a..b"],
        ["größe.α", "größe.β", "層.0.重み"],
        ["a\nb.c", "a"],
    ],
)
def test_awkward_names_are_names(names: list[str]) -> None:
    made = model_of(dict.fromkeys(names, 10))
    devices = {name: f"npu:{i}" for i, name in enumerate(names)}
    assert placed(made, devices) == devices
    assert set(placed(made, {"": "npu:7"}).values()) == {"npu:7"}
    assert set(placed(made, "auto", free={"npu:0": LARGE, "npu:1": LARGE})) == set(names)


def test_a_tensor_that_no_key_matches_is_named() -> None:
    with pytest.raises(OptionError) as caught:
        placed(small_model(), {"model": "npu:0"})
    assert str(caught.value) == "device has no key for tensor 'lm_head.weight'"
    assert caught.value.hint == "the key '' stands for the rest: add '': 'npu:0'"
    assert len(placed(small_model(), {"model": "npu:0"}, ["model.norm.weight"])) == 1
    with pytest.raises(OptionError, match=r"no key for tensor 'model\.embed\.weight'"):
        placed(small_model(), {})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("model.layer.1", "near matches: model.layers.1"),
        ("model.layers.1.", "near matches: model.layers.1"),
        ("model.layers.2", "near matches: model.layers"),
        ("xyz", "ckptfmt inspect lists the names"),
    ],
)
def test_a_key_that_matches_nothing_is_refused(key: str, hint: str) -> None:
    message = re.escape(f"device has the key {key!r}, but no tensor is in a module of that name")
    with pytest.raises(OptionError, match=f"^{message}$") as caught:
        placed(small_model(), {key: "npu:1", "": "npu:0"})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_keys_of_tensors_that_are_not_chosen_are_no_mistake() -> None:
    devices = {"model.layers.0": "npu:0", "model.layers.1": "npu:1", "": "npu:2"}
    found = placed(small_model(), devices, ["model.layers.1.norm"])
    assert found == {"model.layers.1.norm": "npu:1"}


def test_a_key_that_longer_ones_leave_nothing_to_is_no_mistake() -> None:
    made = model_of({"a.b": 10})
    assert placed(made, {"a": "npu:0", "a.b": "npu:1", "": "npu:2"}) == {"a.b": "npu:1"}


def test_values_and_keys_of_a_map_are_checked() -> None:
    with pytest.raises(OptionError, match="device is 'disk', expected"):
        placed(small_model(), {"": "disk"})
    with pytest.raises(OptionError, match="device is 'auto', expected"):
        placed(small_model(), {"": "auto"})
    with pytest.raises(OptionError, match=r"device has the key 0, expected the name of a module"):
        placed(small_model(), {0: "npu:0"})  # type: ignore[dict-item]


TIED = model_of({"embed.weight": 100, "norm.weight": 10}, {"embed.weight": ["head.weight"]})


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ({"embed": "npu:0", "head": "npu", "": "npu:1"}, "npu:0"),
        # A name without a key of its own follows the one that has one.
        ({"embed": "npu:2", "": "npu:1"}, "npu:2"),
        ({"head": "npu:2", "": "npu:1"}, "npu:2"),
        ({"norm": "npu:2", "": "npu:1"}, "npu:1"),
    ],
)
def test_tied_names_go_to_one_device(devices: dict[str, str], expected: str) -> None:
    found = placed(TIED, devices)
    assert found["embed.weight"] == found["head.weight"] == expected


def test_keys_that_part_tied_names_are_refused() -> None:
    devices = {"embed": "npu:0", "head": "npu:1", "norm": "npu:1"}
    with pytest.raises(OptionError) as caught:
        placed(TIED, devices)
    assert str(caught.value) == (
        "'embed.weight' and 'head.weight' are one tensor (tied), but device has "
        "'embed': 'npu:0' and 'head': 'npu:1'"
    )
    assert caught.value.hint == "give both the same device, or load one of the names alone"
    assert placed(TIED, devices, ["head.weight"]) == {"head.weight": "npu:1"}
    assert placed(TIED, devices, ["norm.weight", "embed.weight"])["embed.weight"] == "npu:0"
