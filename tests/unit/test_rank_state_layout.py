"""What a rank state was saved for, compared with what runs here."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ckptfmt.errors import LoadMismatchError
from ckptfmt.vllm.rank_state_layout import (
    FIELDS,
    config_digest,
    differences,
    part_path,
    refuse_other,
)

LAYOUT = {
    "engine": "vllm", "architecture": "LlamaForCausalLM", "config": "0123456789abcdef",
    "tensor_parallel": "2", "pipeline_parallel": "1", "data_parallel": "1", "experts": "none",
    "version": "0.32.0", "platform": "cpu", "dtype": "float32", "quantization": "none",
}  # fmt: skip


def test_the_same_is_not_refused() -> None:
    assert set(LAYOUT) == {field.key for field in FIELDS}
    assert not differences(LAYOUT, dict(LAYOUT))
    refuse_other("state.ckpt", LAYOUT, dict(LAYOUT))


def test_what_the_layout_tells_beside_is_not_compared() -> None:
    refuse_other("state.ckpt", {**LAYOUT, "names": "33"}, LAYOUT)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.key)
def test_each_difference_is_named_with_both_values(field: Any) -> None:
    found = {**LAYOUT, field.key: "other"}
    assert differences(found, LAYOUT) == [field]
    told = f"the {field.called} is other, expected {LAYOUT[field.key]}"
    with pytest.raises(LoadMismatchError, match=rf"^state\.ckpt: .*: {re.escape(told)}$") as caught:
        refuse_other("state.ckpt", found, LAYOUT)
    assert caught.value.hint
    assert "{" not in caught.value.hint


@pytest.mark.parametrize(
    ("key", "found", "hint"),
    [
        ("tensor_parallel", "4", "load it with tensor_parallel_size=4, or save it anew"),
        ("pipeline_parallel", "3", "load it with pipeline_parallel_size=3, or save it anew"),
        ("dtype", "bfloat16", 'load it with dtype="bfloat16", or save it anew'),
        ("version", "0.31.0", "save it anew with what runs here"),
        ("config", "ffffffffffffffff", "it belongs to another model"),
    ],
)
def test_the_next_step(key: str, found: str, hint: str) -> None:
    with pytest.raises(LoadMismatchError) as caught:
        refuse_other("state.ckpt", {**LAYOUT, key: found}, LAYOUT)
    assert str(caught.value.hint).startswith(hint)


def test_all_differences_are_told_and_the_weightiest_first() -> None:
    found = {**LAYOUT, "version": "0.31.0", "tensor_parallel": "1", "architecture": "OPT"}
    with pytest.raises(LoadMismatchError) as caught:
        refuse_other("state.ckpt", found, LAYOUT)
    assert str(caught.value) == (
        "state.ckpt: a rank state saved for something else: "
        "the model class is OPT, expected LlamaForCausalLM; "
        "the tensor-parallel size is 1, expected 2; "
        "the version of vLLM is 0.31.0, expected 0.32.0"
    )
    assert str(caught.value.hint).startswith("it belongs to another model")


def test_a_layout_that_does_not_tell_is_refused() -> None:
    found = {key: value for key, value in LAYOUT.items() if key != "version"}
    with pytest.raises(LoadMismatchError, match=r"version of vLLM is not told, expected 0\.32\.0"):
        refuse_other("state.ckpt", found, LAYOUT)
    with pytest.raises(LoadMismatchError, match="the engine is not told, expected vllm"):
        refuse_other("state.ckpt", {}, LAYOUT)


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "rope_scaling": {"type": "yarn", "factor": 2.0},
    "architectures": ["LlamaForCausalLM"], "id2label": {0: "a", 1: "b"},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"transformers_version": "5.5.4"}, {"_name_or_path": "/elsewhere"}, {"dtype": "bfloat16"},
        {"torch_dtype": None}, {"use_cache": False},
        {"rope_scaling": {"factor": 2.0, "type": "yarn", "dtype": "float32"}},
        {"id2label": {"0": "a", "1": "b"}},
        {"architectures": ("LlamaForCausalLM",)},
    ],
)  # fmt: skip
def test_a_digest_is_of_the_model_not_of_its_reader(changed: dict[str, Any]) -> None:
    assert config_digest({**CONFIG, **changed}) == config_digest(CONFIG)
    assert len(config_digest(CONFIG)) == 16


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_size": 65}, {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"architectures": ["Qwen2ForCausalLM"]}, {"num_hidden_layers": 2}, {"rope_scaling": None},
    ],
)  # fmt: skip
def test_a_digest_is_of_all_of_the_model(changed: dict[str, Any]) -> None:
    assert config_digest({**CONFIG, **changed}) != config_digest(CONFIG)


def test_parts_stand_beside_the_target_and_tell_their_rank() -> None:
    assert part_path("a/state.ckpt", 1, 2) == "a/state.ckpt.rank-00001-of-00002"
    assert part_path("a/state.ckpt/", 0, 16) == "a/state.ckpt.rank-00000-of-00016"
    assert len({part_path("s", rank, 8) for rank in range(8)}) == 8
