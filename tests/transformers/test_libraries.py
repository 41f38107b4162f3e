"""Loads with the real transformers, the newest and the last 4; each in a Python of its own."""

from __future__ import annotations

import pytest
from packaging.version import Version

from tests.helpers.library_cases import PYTHONS, run_all
from tests.helpers.npu_cases import Case, case

pytestmark = pytest.mark.slow

KINDS = ("llama", "qwen2", "opt", "mixtral", "qwen2_moe", "bert", "t5")
CASES = (
    *(case("answering.like_the_library", kind=kind, dtype=dtype, form=form)
      for kind in KINDS for dtype in ("fp32", "bf16") for form in ("converted", "saved")),
    case("answering.cast", kind="llama", stored_as="fp32", wanted="bf16"),
    case("answering.cast", kind="llama", stored_as="bf16", wanted="fp32"),
    case("answering.cast", kind="mixtral", stored_as="fp32", wanted="fp16"),
    case("answering.as_stored"),
    case("answering.kept_in_fp32"),
    case("answering.of_plain_safetensors"),
    case("answering.the_tokenizer_travels"),
    case("answering.generation_config"),
    case("answering.keywords"),
    case("making.while_it_is_read"),
    case("making.the_times_of_it"),
    case("making.without_a_copy"),
    case("making.tied_by_one_name", name="lm_head.weight"),
    case("making.tied_by_one_name", name="model.embed_tokens.weight"),
    case("making.tied_though_stored_twice"),
    case("making.statistics"),
    case("making.nothing_is_left"),
    case("making.several_at_once"),
    case("refusing.missing_unexpected_and_wrong"),
    case("refusing.experts"),
    case("refusing.old_names"),
    case("refusing.heads"),
    case("refusing.ignored_names"),
    case("refusing.damage"),
    case("refusing.configurations"),
    case("refusing.options"),
    case("refusing.places"),
    case("refusing.remote_code"),
    *(case("adapting.to_and_fro", form=form) for form in ("lora", "dora", "norm")),
    case("adapting.cast"),
    *(case("quantizing.like_the_library", method=method)
      for method in ("fp8", "gptq", "awq", "compressed-tensors")),
    case("quantizing.fp8_without_a_gpu"),
    case("adapting.refused"),
    case("adapting.nothing_is_left"),
)  # fmt: skip
ON_NPUS = (
    case("placing.to_one", kind="llama", device_map="npu:0"),
    case("placing.to_one", kind="qwen2", device_map="npu:1"),
    case("placing.to_one", kind="bert", device_map="npu"),
    case("placing.to_one", kind="t5", device_map=0),
    case("placing.to_two"),
    case("placing.spread"),
    case("placing.adapters"),
)
ON_GPUS = tuple(
    case("placing.to_one", kind=kind, device_map=device)
    for kind, device in (("llama", "cuda:1"), ("qwen2", "cuda"), ("bert", 0))
)
BY_PYTHON = {"five": CASES, "four": CASES, "npu": ON_NPUS, "cuda": ON_GPUS}
ALL = [(which, one) for which, cases in BY_PYTHON.items() for one in cases]


@pytest.mark.parametrize(("which", "one"), ALL, ids=str)
def test_case(which: str, one: Case) -> None:
    if PYTHONS[which][1]:
        pytest.skip(PYTHONS[which][1])
    _, outcomes = run_all(which, BY_PYTHON[which])
    assert not outcomes[one], outcomes[one]


@pytest.mark.parametrize(("which", "major"), [("five", 5), ("four", 4), ("npu", 5)])
def test_versions(which: str, major: int) -> None:
    if PYTHONS[which][1]:
        pytest.skip(PYTHONS[which][1])
    versions, _ = run_all(which, BY_PYTHON[which])
    assert Version(versions["transformers"]).major == major
