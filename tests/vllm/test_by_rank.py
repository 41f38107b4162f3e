"""Saving by rank and loading it again, beside vLLM's own loader."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

import ckptfmt
from ckptfmt.saving import join_ranks
from tests.vllm.running import DTYPES, KINDS, Job, name, run, run_here

CASES = [(kind, dtype) for kind in KINDS for dtype in DTYPES]
#: Two processes start slowly: every kind, and either dtype twice.
TWO = list(zip(KINDS, DTYPES * 2, strict=True))
EXTENSION = "tests.vllm.rank_extension.Extension"
LLAMA, OTHER = name("llama", "float32", 1), name("llama", "float32", 2)
SIDECARS = ("config.json", "tokenizer.json", "tokenizer_config.json")
Found = dict[str, Any]


def job(path: Path | str, dtype: str, *steps: Any, **more: Any) -> Job:
    """An engine of ckptfmt; what else it is given may say another."""
    return {
        "model": str(path), "load_format": "ckptfmt", "dtype": dtype,
        "worker_extension_cls": EXTENSION, "steps": [*steps] or [["tokens"]], **more,
    }  # fmt: skip


def saving(target: Path | str) -> list[Any]:
    """A step that saves by rank."""
    return ["ckptfmt_save_rank_state", [str(target)], {}]


def in_turn(models: Path, state: Path, kind: str, dtype: str, ranks: int = 1) -> list[Job]:
    """vLLM's own loader, whose workers save by rank; and what they saved, loaded."""
    more = {"tensor_parallel_size": ranks}
    # vLLM 0.32 reloads experts wrongly on a CPU, by its own loader, too.
    again = [] if kind == "mixtral" else [["reload_weights"], ["tokens"]]
    steps = [["tokens"], saving(state), ["tokens"]]
    return [
        job(models / name(kind, dtype, 1), dtype, *steps, load_format="auto", **more),
        job(state, dtype, ["tokens"], ["reports"], *again, **more),
    ]


@pytest.fixture(scope="module")
def states(models: Path) -> Path:
    """Where rank states are: ``KIND-DTYPE`` of one rank."""
    folder = models / "states"
    folder.mkdir()
    return folder


# ---- one rank ----


@pytest.fixture(scope="module")
def alone(models: Path, states: Path, cache: Path) -> list[Found]:
    """All models in one process."""
    jobs = [j for case in CASES for j in in_turn(models, states / "-".join(case), *case)]
    return run_here(jobs, cache)[0]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_one_rank(states: Path, alone: list[Found], case: tuple[str, str]) -> None:
    default, by_rank = alone[2 * CASES.index(case) :][:2]
    assert [default["failed"], by_rank["failed"]] == [None, None]
    wanted, after_saving = default["tokens"]
    assert after_saving == wanted
    assert by_rank["tokens"] == [wanted] * (1 if case[0] == "mixtral" else 2)
    report = by_rank["reports"][0][-1]
    assert report["strategy"] == "by rank"
    assert report["path"] == str(states / "-".join(case))
    assert report["nbytes"] == report["read_nbytes"] == report["whole_nbytes"] > 0


def test_what_vllm_needs_travels(states: Path, alone: list[Found]) -> None:
    del alone  # it wrote this
    found = {path.name for path in (states / "llama-float32").iterdir()}
    assert {*SIDECARS, "ckptfmt.json"} <= found
    assert not [name for name in found if name.endswith(".safetensors")]
    assert {path.name for path in states.iterdir()} >= set(map("-".join, CASES))
    assert not list(states.glob("*.rank-*"))
    assert ckptfmt.verify(states / "llama-float32").ok


def test_reloading(models: Path, states: Path, alone: list[Found], cache: Path) -> None:
    """Other weights each time: by rank, by name, by rank where full weights are named beside."""
    state, other = states / "llama-float32", states / "other"
    full = models / f"{LLAMA}.ckpt"

    def settings(**settings: Any) -> list[Any]:
        return ["update_config", [{"load_config": {"model_loader_extra_config": settings}}], {}]

    def reload(**where: Any) -> list[Any]:
        return ["reload_weights", [], where]

    tokens = ["tokens"]
    found, _ = run_here(
        [
            job(models / f"{OTHER}.ckpt", "float32", model_loader_extra_config={
                "save_rank_state": {"path": str(other), "workers": 2},
            }),
            job(state, "float32", tokens, settings(rank_state=str(other)), reload(), tokens,
                reload(weights_path=str(full)), tokens, reload(weights_path=str(other)), tokens,
                settings(rank_state=str(state), path=str(full)), reload(), tokens,
                ["reports"]),
            job(full, "float32", reload(weights_path=str(models / f"{OTHER}.ckpt")), tokens,
                saving(states / "reloaded"), model_loader_extra_config={"path": str(full)}),
        ],
        cache,
    )  # fmt: skip
    assert [one["failed"] for one in found] == [None] * 3
    one, (two,) = alone[0]["tokens"][0], found[0]["tokens"]
    assert one != two
    assert found[1]["tokens"] == [one, two, one, two, one]
    ways = [report["strategy"] for report in found[1]["reports"][0]]
    assert ways == ["by name", "by rank", "by rank", "by name", "by rank", "by name"]
    assert found[2]["tokens"] == [two]
    # What was saved is what was loaded last; and it is the same whether saved while loading or not.
    while_loading, afterwards = (
        ckptfmt.load(path, rank=0, tensor_parallel=1) for path in (other, states / "reloaded")
    )
    assert while_loading.keys() == afterwards.keys()
    assert all(while_loading[name].equal(afterwards[name]) for name in while_loading)


# ---- what does not fit ----


def changed(state: Path, target: Path, **layout: str) -> Path:
    """A copy of a rank state that tells something else of itself, and is otherwise right."""
    copytree(state, target)
    index, sums = target / "ckptfmt.json", target / "SHA256SUMS"
    before = index.read_bytes()
    told = json.loads(before)
    told["topology"]["layout"].update(layout)
    index.write_text(json.dumps(told))
    digests = [sha256(data).hexdigest() for data in (before, index.read_bytes())]
    assert digests[0] in sums.read_text()
    sums.write_text(sums.read_text().replace(*digests))
    return target


@pytest.fixture(scope="module")
def refused(
    models: Path, states: Path, alone: list[Found], cache: Path
) -> tuple[dict[str, Found], str]:
    """Engines that are given what does not fit, by what it is; with ``+`` beside full weights."""
    del alone  # it wrote what this reads
    state, other = states / "llama-float32", states / "qwen2-float32"
    older = changed(state, states / "older", version="0.31.0")
    two, part, bare = states / "two", states / "part", states / "bare"
    layout = json.loads((state / "ckptfmt.json").read_text())["topology"]["layout"]
    ckptfmt.save_dict(ckptfmt.load(state, rank=0, tensor_parallel=1), part)
    join_ranks([part, part], two, layout={**layout, "tensor_parallel": "2"})
    bare.mkdir()
    for sidecar in SIDECARS:
        for folder in (two, bare):
            (folder / sidecar).write_bytes((state / sidecar).read_bytes())
    damaged = Path(copytree(state, states / "damaged"))
    with (damaged / "part-00000.ckptfmt").open("r+b") as stream:
        stream.seek(4096 + 100)
        byte = stream.read(1)
        stream.seek(4096 + 100)
        stream.write(bytes([byte[0] ^ 1]))
    full = models / f"{LLAMA}.ckpt"

    def given(model: Path, dtype: str = "float32", **extra: object) -> Job:
        told = {key: str(value) for key, value in extra.items()}
        return job(model, dtype, model_loader_extra_config=told)

    jobs = {
        "version": given(older), "version+": given(older, path=full),
        "degree": given(two), "degree+": given(full, rank_state=two),
        "model": given(bare, rank_state=other), "model+": given(full, rank_state=other),
        "dtype": given(state, "bfloat16"),
        "damage": given(damaged), "damage+": given(full, rank_state=damaged),
        "nothing": given(full, rank_state="/nowhere"),
        "target": given(full, save_rank_state=state),
    }
    found, log = run_here(list(jobs.values()), cache)
    return dict(zip(jobs, found, strict=True)), log


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("version", "LoadMismatchError: {}/older: a rank state saved for something else: "
                    "the version of vLLM is 0.31.0, expected 0."),
        ("degree", "LoadMismatchError: {}/two: a rank state saved for something else: "
                   "the tensor-parallel size is 2, expected 1"),
        ("model", "LoadMismatchError: {}/qwen2-float32: a rank state saved for something else: "
                  "the model class is Qwen2ForCausalLM, expected LlamaForCausalLM; "
                  "the configuration of the model is "),
        ("dtype", "LoadMismatchError: {}/llama-float32: a rank state saved for something else: "
                  "the dtype of the model is float32, expected bfloat16"),
        ("damage", "ChecksumError: {}/damaged/part-00000.ckptfmt: "),
        ("damage+", "ChecksumError: {}/damaged/part-00000.ckptfmt: "),
        ("nothing", "NotFoundError: /nowhere: no such rank state"),
        ("target", "TargetExistsError: {}/llama-float32: the target exists"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    states: Path, refused: tuple[dict[str, Found], str], case: str, told: str
) -> None:
    found = refused[0][case]
    assert str(found["failed"]).startswith(told.format(states))
    assert not found["tokens"]


@pytest.mark.parametrize("case", ["version+", "degree+", "model+"])
def test_what_does_not_fit_falls_back_to_full_weights_with_a_warning(
    models: Path, alone: list[Found], refused: tuple[dict[str, Found], str], case: str
) -> None:
    found, log = refused
    assert found[case]["failed"] is None
    assert found[case]["tokens"] == [alone[0]["tokens"][0]]
    assert log.count(f"ckptfmt: loading {models}/{LLAMA}.ckpt by name, because {models}/") == 3


# ---- two ranks ----


@pytest.mark.parametrize("case", TWO, ids="-".join)
def test_two_ranks(
    models: Path, alone: list[Found], cache: Path, tmp_path: Path, case: tuple[str, str]
) -> None:
    """The tokens of vLLM's own loader, and each rank reads its half."""
    (default, by_rank), log = run_here(in_turn(models, tmp_path / "state", *case, ranks=2), cache)
    assert [default["failed"], by_rank["failed"]] == [None, None], log[-3000:]
    wanted, after_saving = default["tokens"]
    assert after_saving == wanted
    assert by_rank["tokens"] == [wanted] * (1 if case[0] == "mixtral" else 2)
    assert {path.name for path in tmp_path.iterdir()} == {"state"}
    whole = alone[2 * CASES.index(case) + 1]["reports"][0][-1]["nbytes"]
    # Both need all embeddings of positions, which are a tenth of so small an OPT.
    limit = (0.60 if case[0] == "opt" else 0.52) * whole
    for rank, (report,) in enumerate(by_rank["reports"]):
        assert (report["strategy"], report["rank"]) == ("by rank", rank)
        assert 0.4 * whole < report["nbytes"] == report["read_nbytes"] <= limit
        assert f"by rank, rank {rank} of 2 to cpu: " in log


def test_pipeline_stages_are_ranks(
    models: Path, states: Path, alone: list[Found], cache: Path, tmp_path: Path
) -> None:
    """vLLM 0.32 generates nothing with stages on a CPU, so the tensors are compared."""
    del alone  # it wrote what this compares with
    state, more = tmp_path / "state", {"pipeline_parallel_size": 2}
    found, log = run_here(
        [
            job(models / f"{LLAMA}.ckpt", "float32", saving(state), **more),
            job(state, "float32", ["reports"], **more),
        ],
        cache,
    )
    assert [one["failed"] for one in found] == [None, None], log[-3000:]
    left = ckptfmt.load(states / "llama-float32", rank=0, tensor_parallel=1)
    for rank, (report,) in enumerate(found[1]["reports"]):
        assert (report["strategy"], report["rank"]) == ("by rank", rank)
        stage = ckptfmt.load(state, rank=rank, tensor_parallel=2)
        assert report["nbytes"] == report["read_nbytes"] == sum(t.nbytes for t in stage.values())
        assert all(left.pop(name).equal(tensor) for name, tensor in stage.items())
    assert not left


def test_a_save_that_is_killed_leaves_nothing_that_loads(
    models: Path, cache: Path, tmp_path: Path
) -> None:
    """A rank dies when both have written their part: the other does not wait, and there is none."""
    target = tmp_path / "state"
    dying = ["tests_die_while_saving", [str(target)], {}]
    (found,), log = run(
        [job(models / f"{LLAMA}.ckpt", "float32", dying, tensor_parallel_size=2)], cache
    )
    assert found["failed"] is not None, log[-3000:]
    # Its own part, which the dead could not remove, and which is no rank state.
    assert {path.name for path in tmp_path.iterdir()} == {"state.rank-00000-of-00002"}
    (left,) = tmp_path.iterdir()
    (again,), _ = run_here([job(left, "float32")], cache)
    assert again["failed"] is not None
