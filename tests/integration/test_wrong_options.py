"""Values that no option has, and names that no tensor has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ckptfmt
from ckptfmt import LoadOptions, OptionError, TensorNotFoundError, UnsupportedDtypeError
from ckptfmt.cli import main
from tests.helpers.refusals import refused, refused_at_the_prompt

Row = tuple[dict[str, Any], list[str], type[ckptfmt.CkptError], str]
CONVERT: dict[str, Row] = {
    "dtype": ({"dtype": "int8"}, ["--dtype", "int8"], UnsupportedDtypeError, "cast to 'int8'"),
    "alignment": ({"alignment": 5000}, ["--alignment", "5000"], OptionError, "no power of two"),
    "small": ({"alignment": 512}, ["--alignment", "512"], OptionError, "no power of two from 4096"),
    "large": ({"alignment": "4MiB"}, ["--alignment", "4MiB"], OptionError, "no power of two"),
    "unit": ({"alignment": "4XB"}, ["--alignment", "4XB"], OptionError, "'4XB' is not a byte"),
    "partition": ({"partition_size": 4096}, ["--partition-size", "4096"], OptionError, "least 10"),
    "fraction": ({"partition_size": "1.5"}, ["--partition-size", "1.5"], OptionError, "a whole"),
    "minus": ({"partition_size": "-1"}, ["--partition-size", "-1"], OptionError, "not a byte"),
}


@pytest.mark.parametrize("what", CONVERT)
def test_a_wrong_value_for_a_conversion(what: str, tmp_path: Path, source: Path) -> None:
    options, args, kind, message = CONVERT[what]
    target = tmp_path / "x.ckpt"
    refused(kind, message, lambda: ckptfmt.convert(source, target, **options))
    refused_at_the_prompt(["convert", source, target, *args], message, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_workers_below_one(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "x.ckpt"
    refused(OptionError, "workers is -1", lambda: ckptfmt.convert(source, target, workers=-1))


def test_filters_that_leave_nothing(tmp_path: Path, source: Path) -> None:
    refused_at_the_prompt(
        ["convert", source, tmp_path / "x", "--include", "none*"], "the filters leave no tensor"
    )


LOAD: dict[str, Row] = {
    "device": ({"device": "gpu"}, ["--device", "gpu"], OptionError, "gpu"),
    "dtype": ({"dtype": "q4"}, ["--dtype", "q4"], UnsupportedDtypeError, "cannot cast to 'q4'"),
}


@pytest.mark.parametrize("what", LOAD)
def test_a_wrong_value_for_a_load(what: str, checkpoint: Path) -> None:
    options, args, kind, message = LOAD[what]
    refused(kind, message, lambda: ckptfmt.load(checkpoint, **options))
    refused_at_the_prompt(["load", checkpoint, *args], message, code=2)


def test_a_framework_that_is_none(checkpoint: Path) -> None:
    refused(OptionError, "framework is 'jax'", lambda: ckptfmt.load(checkpoint, framework="jax"))
    with ckptfmt.open(checkpoint) as opened:
        refused(OptionError, "framework is 'x'", lambda: list(opened.stream(framework="x")))


@pytest.mark.parametrize("max_nbytes", [0, -1])
def test_a_stream_of_no_memory(max_nbytes: int, checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        refused(
            OptionError, "max_nbytes is", lambda: list(opened.stream(max_nbytes=max_nbytes))
        )


READING: dict[str, tuple[Callable[[], object], str, str, str]] = {
    "io": (lambda: LoadOptions(io="aio"), "CKPTFMT_IO", "aio", "io is 'aio', expected one of"),
    "reads": (lambda: LoadOptions(reads="mmap"), "CKPTFMT_READS", "mmap", "reads is 'mmap'"),
    "threads": (lambda: LoadOptions(threads=257), "CKPTFMT_THREADS", "257", "threads is 257"),
    "depth": (lambda: LoadOptions(depth=0), "CKPTFMT_DEPTH", "0", "depth is 0, expected 1 to 256"),
    "op": (lambda: LoadOptions(op_nbytes=5000), "CKPTFMT_OP_NBYTES", "5000", "op_nbytes is 5000"),
    "odd op": (lambda: LoadOptions(op_nbytes=3 << 19), "CKPTFMT_OP_NBYTES", "1536KiB", "multiple"),
}


@pytest.mark.parametrize("what", READING)
def test_a_wrong_value_for_reading_in_code_and_environment(
    what: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, variable, text, message = READING[what]
    refused(OptionError, message, make)
    monkeypatch.setenv(variable, text)
    refused(OptionError, message, lambda: ckptfmt.load(checkpoint))
    refused_at_the_prompt(["load", checkpoint], message, code=2)


def test_a_variable_that_is_no_number_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTFMT_DEPTH", "many")
    refused(OptionError, "CKPTFMT_DEPTH: 'many' is not", lambda: ckptfmt.open(checkpoint), "64KiB")


@pytest.mark.parametrize("args", [
    [], ["convert"], ["convert", "a"], ["frobnicate"], ["load", "--nonsense"],
    ["convert", "a", "b", "--workers", "0"], ["load", "a", "--framework", "jax"],
    ["inspect", "a", "--depth", "x"], ["export", "a", "b", "--to", "gguf"],
])  # fmt: skip
def test_a_command_line_that_makes_no_sense(args: list[str]) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert result.stdout == ""


def test_another_format_to_export_to(tmp_path: Path, checkpoint: Path) -> None:
    target = tmp_path / "out"
    refused(OptionError, "cannot export to 'gguf'",
            lambda: ckptfmt.export(checkpoint, target, to="gguf"))  # fmt: skip
    refused_at_the_prompt(["export", checkpoint, target, "--shard-size", "x"], "byte count", code=2)
    assert not target.exists()


# ---- names ----


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layers.0.attn.wieght", "near matches: layers.0.attn.weight"),
        ("embed", "ckptfmt inspect lists the names"),
        ("LAYERS.1.MASK", "ckptfmt inspect"),
        ("", "ckptfmt inspect"),
    ],
)
def test_an_unknown_name_comes_with_near_matches(name: str, hint: str, checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        for call in (
            lambda: opened[name], lambda: opened.load([name]), lambda: opened.info(name),
            lambda: opened.read(name), lambda: opened.crc32c(name), lambda: opened.stream(name),
            lambda: ckptfmt.load(checkpoint, names=["embed.weight", name]),
        ):  # fmt: skip
            refused(TensorNotFoundError, f"no tensor is named {name!r}", call, hint)
        assert name not in opened
    line = refused_at_the_prompt(["load", checkpoint, "--names", name], "no tensor is named")
    assert hint in line


def test_a_pattern_that_matches_nothing(checkpoint: Path) -> None:
    refused(TensorNotFoundError, r"no tensor name matches 'lm_\*'",
            lambda: ckptfmt.load(checkpoint, names=["embed.weight", "lm_*"]))  # fmt: skip
    refused_at_the_prompt(["load", checkpoint, "--names", "lm_*"], "no tensor name matches")
