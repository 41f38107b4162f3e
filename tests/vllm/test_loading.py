"""Reloading, settings, what is refused, and how much each rank reads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from tests.vllm.models import HEADS
from tests.vllm.running import Job, environment, make_models, name, run, run_here

#: As a person may write it for such models; transformers has the same.
PLAN = {
    "*.o_proj.weight": "rowwise", "*.down_proj.weight": "rowwise", "*_proj.weight": "colwise",
    "*embed_tokens.weight": "colwise", "lm_head.weight": "colwise",
}  # fmt: skip
MIB = 1 << 20
AUTO = {"load_config": {"load_format": "auto", "model_loader_extra_config": {}}}
FIRST, SECOND = name("llama", "float32", 1), name("llama", "float32", 2)


def job(path: Path | str, *steps: Any, **more: Any) -> Job:
    return {
        "model": str(path), "load_format": "ckptfmt", "dtype": "float32",
        "steps": [*steps] or [["tokens"]], **more,
    }  # fmt: skip


def extra(**settings: Any) -> list[Any]:
    """A step that changes the settings."""
    config = {"load_config": {"model_loader_extra_config": settings}}
    return ["update_config", [config], {}]


def reload(path: Path | str | None = None) -> list[Any]:
    """A step that loads in place."""
    return ["reload_weights", [], {"weights_path": str(path)} if path else {}]


@pytest.fixture(scope="module")
def bare(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the first model, and no weights."""
    folder = tmp_path_factory.mktemp("bare") / "llama"
    shutil.copytree(models / FIRST, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_reloading_and_where_from(models: Path, bare: Path, cache: Path) -> None:
    """Of a set path and a folder that vLLM was given, what was given later is loaded."""
    first, second = models / f"{FIRST}.ckpt", models / f"{SECOND}.ckpt"
    tokens = ["tokens"]
    (of_first, of_second, moving, by_path), log = run_here(
        [
            job(models / FIRST, load_format="auto"),
            job(models / SECOND, load_format="auto"),
            job(
                first, tokens, reload(), tokens, reload(second), tokens, reload(), tokens,
                extra(path=str(first)), reload(), tokens, reload(models / SECOND), tokens,
                ["reports"],
            ),
            job(
                bare, tokens, reload(), tokens, extra(path=str(second)), reload(), tokens,
                reload(first), tokens, extra(path=str(second), max_nbytes=4096), reload(), tokens,
                model_loader_extra_config={"path": str(first), "verify": False},
            ),
        ],
        cache,
    )  # fmt: skip
    assert [of_first["failed"], of_second["failed"]] == [None, None]
    one, two = of_first["tokens"][0], of_second["tokens"][0]
    assert one != two
    assert (moving["failed"], moving["tokens"]) == (None, [one, one, two, two, one, two])
    assert (by_path["failed"], by_path["tokens"]) == (None, [one, one, two, one, two])
    paths = [Path(report["path"]).name for report in moving["reports"][0]]
    # The fourth time no path was given: what was loaded last. The last is a plain folder.
    one, two = first.name, second.name
    assert paths == [one, one, two, two, one, SECOND]
    assert f"of {first} in " in log


def test_what_is_refused(models: Path, bare: Path, cache: Path, tmp_path: Path) -> None:
    good = models / f"{FIRST}.ckpt"
    lacking, damaged = tmp_path / "lacking.ckpt", tmp_path / "damaged.ckpt"
    ckptfmt.convert(models / FIRST, lacking, exclude="model.layers.1.input_layernorm.weight")
    shutil.copytree(good, damaged)
    with (damaged / "part-00000.ckptfmt").open("r+b") as file:
        file.seek(8192)
        byte = file.read(1)
        file.seek(8192)
        file.write(bytes([byte[0] ^ 1]))
    found, _ = run_here(
        [
            job(good, model_loader_extra_config={"pth": "x"}),
            job(lacking),
            job(damaged),
            job(bare),
            job(bare, model_loader_extra_config={"path": str(tmp_path / "nowhere")}),
            job(bare, load_format="auto"),
            job(good),
        ],
        cache,
    )
    unknown, incomplete, flipped, weightless, nowhere, by_vllm, again = (f["failed"] for f in found)
    assert unknown.startswith("OptionError: model_loader_extra_config has 'pth', expected only ")
    assert "has nothing for 1 parameters of LlamaForCausalLM: model.layers.1.input" in incomplete
    assert incomplete.startswith("LoadMismatchError: ")
    assert flipped.startswith("ChecksumError: ")
    assert "part-00000.ckptfmt" in flipped
    assert weightless.startswith(("FormatError: ", "NotFoundError: ", "SourceError: "))
    assert nowhere.startswith("NotFoundError: ")
    assert "Cannot find any model weights" in by_vllm
    assert again is None  # what was refused has left nothing


def test_a_plugin_that_is_not_allowed_is_not_loaded(models: Path, cache: Path) -> None:
    (found,), _ = run_here([job(models / f"{FIRST}.ckpt")], cache, VLLM_PLUGINS="none")
    assert found["failed"] == "ValueError: Load format `ckptfmt` is not supported"


def test_each_rank_reads_its_share(cache: Path, tmp_path: Path) -> None:
    """Of tensors of many blocks, as real models have; from one that was cut for ranks, little else.

    The ways are taken in turn by one engine, each after the weights were others.
    """
    make_models(tmp_path, [("larger", "float32", 1), ("larger", "float32", 2)])
    path, other = (tmp_path / name("larger", "float32", seed) for seed in (1, 2))
    ckptfmt.convert(path, tmp_path / "cut.ckpt", tensor_parallel=2, tensor_parallel_plan=PLAN)
    ckptfmt.convert(path, tmp_path / "cut4.ckpt", tensor_parallel=4, tensor_parallel_plan=PLAN)
    steps: list[Any] = [["tokens"]]
    for way in ("cut.ckpt", "cut4.ckpt", path.name):
        steps += [reload(f"{other}.ckpt"), ["tokens"], reload(tmp_path / way), ["tokens"]]
    steps += [["reports"], ["update_config", [AUTO], {}], reload(path), ["tokens"]]
    (found,), log = run([job(f"{path}.ckpt", *steps, tensor_parallel_size=2)], cache)
    assert found["failed"] is None, log[-3000:]
    tokens = found["tokens"]
    assert tokens[0] == tokens[2] == tokens[4] == tokens[6] == tokens[7]
    assert tokens[1] == tokens[3] == tokens[5] != tokens[0]
    for rank, (plain, _, cut, _, cut_for_four, _, folder) in enumerate(found["reports"]):
        for report in (plain, cut, cut_for_four, folder):
            assert (report["again"], report["rank"]) == ([], rank)
        assert plain["nbytes"] <= plain["read_nbytes"] <= 0.70 * plain["whole_nbytes"]
        assert folder["nbytes"] <= folder["read_nbytes"] <= 0.70 * folder["whole_nbytes"]
        assert cut["nbytes"] <= cut["read_nbytes"] <= 0.52 * cut["whole_nbytes"]
        assert cut["strategy"] == "by name, cut for ranks"
        assert cut_for_four["strategy"] == "by name"
        assert cut_for_four["nbytes"] == plain["nbytes"]
        assert f"by name, cut for ranks, rank {rank} of 2 to cpu: " in log


@pytest.mark.parametrize(
    ("kind", "ranks"), [("one_head", 2), pytest.param("two_heads", 4, marks=pytest.mark.slow)]
)
def test_heads_that_several_ranks_have(
    kind: str, ranks: int, cache: Path, tmp_path: Path
) -> None:
    """Keys and values of fewer heads than ranks: each rank reads the head that it has.

    Of a checkpoint that was cut for ranks, too, whose cuts go through the heads.
    """
    make_models(tmp_path, [(kind, "float32", 1), (kind, "float32", 2)])
    path, other = (tmp_path / name(kind, "float32", seed) for seed in (1, 2))
    ckptfmt.convert(path, tmp_path / "cut.ckpt", tensor_parallel=ranks, tensor_parallel_plan=PLAN)
    steps: list[Any] = [
        ["tokens"], reload(f"{other}.ckpt"), ["tokens"], reload(tmp_path / "cut.ckpt"), ["tokens"],
        ["reports"], ["update_config", [AUTO], {}], reload(other), ["tokens"], reload(path),
        ["tokens"],
    ]  # fmt: skip
    cores = "|".join("01"[rank % 2] for rank in range(ranks))
    (found,), log = run(
        [job(f"{path}.ckpt", *steps, tensor_parallel_size=ranks)], cache,
        VLLM_CPU_OMP_THREADS_BIND=cores,
    )  # fmt: skip
    assert found["failed"] is None, log[-3000:]
    first, second, cut_first, second_by_vllm, first_by_vllm = found["tokens"]
    assert first == cut_first == first_by_vllm
    assert second == second_by_vllm != first
    outputs = dict.fromkeys(("q_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"), ranks)
    by_rows = {**outputs, **dict.fromkeys(("k_proj", "v_proj"), HEADS[kind])}
    by_cut = {**by_rows, **dict.fromkeys(("o_proj", "down_proj"), ranks)}
    with ckptfmt.open(f"{path}.ckpt") as checkpoint:
        sizes = {one: checkpoint.info(one).nbytes for one in checkpoint.names}
    for rank, (plain, _, cut) in enumerate(found["reports"]):
        for report, parts in ((plain, by_rows), (cut, by_cut)):
            of = {one: parts.get(one.split(".")[-2], 1) for one in sizes}
            in_part = [one for one in sizes if of[one] > 1]
            assert (report["rank"], report["again"]) == (rank, [])
            assert (report["in_part"], report["in_full"]) == (
                len(in_part), len(sizes) - len(in_part),
            )  # fmt: skip
            assert report["nbytes"] == sum(sizes[one] // of[one] for one in sizes)
            # At either end of a part a block of checksums is read whole.
            assert 0 <= report["read_nbytes"] - report["nbytes"] <= len(in_part) * 2 * MIB
        assert cut["strategy"] == "by name, cut for ranks"


def test_what_was_foreseen_wrongly_costs_time_only(models: Path, cache: Path) -> None:
    """`tests.vllm.astray` has each rank foresee nonsense; the tokens are the same."""
    (wanted,), _ = run_here([job(models / FIRST, load_format="auto")], cache)
    astray = {"tensor_parallel_size": 2, "worker_extension_cls": "tests.vllm.astray.Astray"}
    steps = ["tokens"], ["reports"]
    (found,), log = run_here([job(models / f"{FIRST}.ckpt", *steps, **astray)], cache)
    assert found["failed"] is None, log[-3000:]
    assert found["tokens"] == wanted["tokens"]
    for (report,) in found["reports"]:
        # Twelve with the other rank's rows; of those that no layer cuts, five norms and two layers'
        # outputs.
        assert (report["in_part"], len(report["again"])) == (12 + 5 + 2 * 2, 12 + 5 + 2 * 2)
    assert "21 tensors in part, 21 of them again in full" in log


def test_a_platform_s_own_layers_and_processing_are_left_to_it(models: Path, cache: Path) -> None:
    """As vllm-ascend has them: `tests.vllm.platform`."""
    (wanted,), _ = run_here([job(models / FIRST, load_format="auto")], cache)
    platform = {"tensor_parallel_size": 2, "worker_extension_cls": "tests.vllm.platform.Platform"}
    steps = ["tokens"], ["reports"]
    (found,), log = run_here([job(models / f"{FIRST}.ckpt", *steps, **platform)], cache)
    assert found["failed"] is None, log[-3000:]
    assert found["tokens"] == wanted["tokens"]
    for (report,) in found["reports"]:
        assert report["processed"] == ["LlamaForCausalLM"]
        assert len(report["kinds"]) == 3
        assert (report["in_part"], report["again"]) == (12, [])


def test_a_draft_comes_from_its_own_folder(models: Path, bare: Path, cache: Path) -> None:
    """The set path is the target's; with it as draft, tokens are its own all the same."""
    first, second = models / f"{FIRST}.ckpt", models / f"{SECOND}.ckpt"
    speculative = {"method": "draft_model", "model": str(second), "num_speculative_tokens": 2}
    extra_config = {"path": str(first)}
    (wanted, found), log = run_here(
        [
            job(models / FIRST, load_format="auto"),
            job(bare, ["tokens"], ["reports"], model_loader_extra_config=extra_config,
                speculative_config=speculative),
        ],
        cache,
    )  # fmt: skip
    assert found["failed"] is None, log[-3000:]
    assert found["tokens"] == wanted["tokens"]
    assert [report["path"] for report in found["reports"][0]] == [str(first), str(second)]


def test_the_plugin_is_found_and_looked_at_by_doctor() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "ckptfmt", "doctor", "--json"],
        env=environment(Path("/nowhere")), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    findings = {f["check"]: f for f in json.loads(child.stdout)["findings"]}
    assert findings["vllm.plugin"]["level"] == "OK"
    assert findings["vllm.plugin"]["found"].endswith(": plugin registered as ckptfmt")
