"""The tokens that follow are those of vLLM's own loader, by every way in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vllm.running import DTYPES, KINDS, Job, name, run_here

Found = dict[tuple[str, str], dict[str, Any]]
TENSORS = {"llama": 21, "qwen2": 26, "opt": 36, "mixtral": 41}
#: Of two layers queries, keys, values, gates, and so on; embeddings, heads; gates of experts.
IN_PART = {"llama": 12, "qwen2": 17, "opt": 17, "mixtral": 24}


@pytest.fixture(scope="module")
def alone(models: Path, cache: Path) -> tuple[Found, Found]:
    """All models in one process: by vLLM's own loader, by ckptfmt, from safetensors through it."""
    jobs, keys = [], [(kind, dtype) for kind in KINDS for dtype in DTYPES]
    for kind, dtype in keys:
        path = str(models / name(kind, dtype, 1))
        jobs += [
            {"model": path, "load_format": "auto", "dtype": dtype, "steps": [["tokens"]]},
            {"model": f"{path}.ckpt", "load_format": "ckptfmt", "dtype": dtype},
        ]
    found, _ = run_here(jobs, cache)
    assert [one["failed"] for one in found] == [None] * len(found)
    return dict(zip(keys, found[::2], strict=True)), dict(zip(keys, found[1::2], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_alone(kind: str, dtype: str, alone: tuple[Found, Found]) -> None:
    wanted, found = (one[kind, dtype] for one in alone)
    assert found["tokens"] == wanted["tokens"]
    assert len({tuple(tokens) for tokens in found["tokens"][0]}) == 4  # they say something
    report = found["reports"][0][-1]
    assert report["strategy"] == "by name"
    assert report["path"].endswith(f"{kind}-{dtype}-1.ckpt")
    assert (report["rank"], report["tensor_parallel"], report["device"]) == (0, 1, "cpu")
    assert (report["in_part"], report["in_full"], report["again"]) == (0, TENSORS[kind], [])
    assert report["nbytes"] == report["whole_nbytes"] <= report["read_nbytes"]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("llama", "float32"), ("qwen2", "bfloat16"), ("opt", "float32"),
        pytest.param("llama", "bfloat16", marks=pytest.mark.slow),
        pytest.param("qwen2", "float32", marks=pytest.mark.slow),
        pytest.param("opt", "bfloat16", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_on_two_ranks(kind: str, dtype: str, models: Path, cache: Path) -> None:
    """One engine, loaded by ckptfmt, then in place with another model, then by vLLM's own loader.

    Between the first and the last all weights are others: what is equal again was loaded.
    """
    first, second = (str(models / name(kind, dtype, seed)) for seed in (1, 2))
    auto = {"load_config": {"load_format": "auto", "model_loader_extra_config": {}}}
    steps: list[Any] = [
        ["tokens"],
        ["reload_weights", [], {"weights_path": f"{second}.ckpt"}], ["tokens"],
        ["reports"],
        ["update_config", [auto], {}],
        ["reload_weights", [], {"weights_path": first}], ["tokens"],
        ["reload_weights", [], {"weights_path": second}], ["tokens"],
    ]  # fmt: skip
    job = {**on_two(f"{first}.ckpt", dtype), "steps": steps}
    (found,), log = run_here([job], cache)
    assert found["failed"] is None, log[-3000:]
    by_us, second_by_us, by_vllm, second_by_vllm = found["tokens"]
    assert by_us == by_vllm
    assert second_by_us == second_by_vllm
    assert by_us != second_by_us
    check_reports(found["reports"], kind, ["1", "2"])


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_experts_on_two_ranks(dtype: str, models: Path, cache: Path) -> None:
    """Two engines: on a CPU, vLLM reloads experts wrongly, by whichever loader."""
    path = str(models / name("mixtral", dtype, 1))
    jobs = [
        on_two(f"{path}.ckpt", dtype),
        {**on_two(path, dtype), "load_format": "auto", "steps": [["tokens"]]},
    ]
    (by_us, by_vllm), log = run_here(jobs, cache)
    assert [by_us["failed"], by_vllm["failed"]] == [None, None], log[-3000:]
    assert by_us["tokens"] == by_vllm["tokens"]
    check_reports(by_us["reports"], "mixtral", ["1"])


def on_two(path: str, dtype: str) -> Job:
    return {"model": path, "load_format": "ckptfmt", "dtype": dtype, "tensor_parallel_size": 2}


def check_reports(found: list[list[dict[str, Any]]], kind: str, seeds: list[str]) -> None:
    """What each rank has loaded: what was foreseen, and nothing again."""
    for rank, reports in enumerate(found):
        assert [Path(report["path"]).stem[-1] for report in reports] == seeds
        for report in reports:
            assert (report["rank"], report["tensor_parallel"]) == (rank, 2)
            assert report["again"] == []
            assert report["in_part"] == IN_PART[kind]
            assert report["in_part"] + report["in_full"] == TENSORS[kind]
