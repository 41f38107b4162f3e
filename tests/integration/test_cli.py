"""The command line: stdout is data, stderr the rest; exit 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

import ckptfmt
from ckptfmt.cli import main
from tests.helpers.handmade import flip, snapshot
from tests.helpers.models import equal_bits, write_folder

COMMANDS = [
    "bench", "convert", "batch", "load", "selftest", "doctor", "inspect", "verify", "export",
]  # fmt: skip
Tensors = dict[str, torch.Tensor]


def run(*args: str | Path) -> Result:
    """One command in this process; an exception that is no exit fails the test."""
    result = CliRunner().invoke(main, [*map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data(*args: str | Path) -> Any:
    """The JSON that a command prints: all of stdout, and nothing else."""
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# ---- help ----


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {command} [OPTIONS]")
    assert "--json" in result.stdout or command == "selftest"  # which prints nothing else
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in result.stdout
            assert parameter.help or isinstance(parameter.type, click.Choice)


def test_the_list_of_commands_is_complete() -> None:
    assert set(main.commands) == set(COMMANDS)
    result = run("--help")
    assert all(command in result.stdout for command in COMMANDS)
    assert run("-h").stdout == result.stdout


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[-1]) == (0, ckptfmt.__version__)


# ---- convert ----


def test_convert_says_what_it_did(tmp_path: Path, source: Path, model: Tensors) -> None:
    target = tmp_path / "x.ckpt"
    result = run("convert", source, target, "--dtype", "fp16", "--partition-size", "2MiB")
    assert result.exit_code == 0
    first, second, last = result.stdout.splitlines()
    assert first == "7 tensors, 2.70 MB -> 1.65 MB, 4 cast"
    assert second.startswith("1 partition, ")
    assert second.endswith("; 2 other files")
    assert last.startswith(f"wrote {target} in ")
    assert result.stderr == "left out: model.safetensors.index.json\n"
    assert ckptfmt.load(target)["embed.weight"].dtype is torch.float16


def test_convert_in_json(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "x.ckpt"
    options = ["--partition-size", "1100KiB", "--exclude", "layers.1.*"]
    report = data("convert", source, target, *options)
    assert set(report) == {
        "path", "id", "dry_run", "source_nbytes", "nbytes", "tensors", "cast", "partitions",
        "sidecars", "left_out", "dropped", "resumed", "seconds", "tensor_parallel",
    }  # fmt: skip
    assert report["path"] == str(target)
    assert report["tensor_parallel"] is None
    assert (report["dry_run"], report["tensors"], report["cast"]) == (False, 5, 0)
    assert sorted(report["dropped"]) == ["layers.1.empty", "layers.1.mask"]
    assert report["sidecars"] == ["config.json", "tokenizer/vocab.txt"]
    for partition in report["partitions"]:
        assert (target / partition["file"]).stat().st_size == partition["nbytes"] <= 1100 << 10
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.index.id == report["id"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_dry_run_tells_the_plan_and_writes_nothing(
    as_json: bool, tmp_path: Path, source: Path
) -> None:
    target = tmp_path / "x.ckpt"
    options = ["--partition-size", "1100KiB", "--alignment", "64KiB"]
    before = snapshot(tmp_path)
    if as_json:
        told = data("convert", source, target, *options, "--dry-run")
        assert told["id"] is None
        assert told["dry_run"] is True
        assert snapshot(tmp_path) == before
        written = data("convert", source, target, *options)
        assert told["partitions"] == written["partitions"]
        return
    result = run("convert", source, target, *options, "--dry-run")
    assert result.stdout.splitlines()[-1] == f"would write {target}"
    assert "  part-00001.ckptfmt  " in result.stdout
    assert snapshot(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_include_and_exclude_may_be_given_several_times(tmp_path: Path, source: Path) -> None:
    report = data(
        "convert", source, tmp_path / "x", "--include", "layers.*", "--include", "embed*",
        "--exclude", "*.bias", "--exclude", "*.mask",
    )  # fmt: skip
    assert sorted(report["dropped"]) == ["layers.0.attn.bias", "layers.1.mask", "position_ids"]


def test_force_replaces_a_checkpoint(tmp_path: Path, source: Path, model: Tensors) -> None:
    target = tmp_path / "x.ckpt"
    assert run("convert", source, target, "--dtype", "fp16").exit_code == 0
    assert run("convert", source, target).exit_code == 1
    assert ckptfmt.load(target)["embed.weight"].dtype is torch.float16
    assert run("convert", source, target, "--force").exit_code == 0
    assert equal_bits(ckptfmt.load(target)["embed.weight"], model["embed.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "x.ckpt"]


# ---- load ----


def test_load_gives_its_statistics(checkpoint: Path, model: Tensors) -> None:
    stats = data("load", checkpoint)
    assert set(stats) == {
        "tensors", "nbytes", "read_nbytes", "verified_nbytes", "unverified", "seconds", "engine",
        "engine_reason",
        "threads", "depth", "op_nbytes", "huge_pages", "files", "disk_wait_seconds",
        "buffered_read_seconds", "checksum_seconds", "device_wait_seconds", "staging", "devices",
        "device_start_seconds", "peak_pool_nbytes", "gb_s", "bottleneck", "npus", "gpus",
        "warnings", "trace",
    }  # fmt: skip
    nbytes = sum(t.numel() * t.element_size() for t in model.values())
    assert (stats["tensors"], stats["nbytes"], stats["verified_nbytes"]) == (7, nbytes, nbytes)
    assert nbytes <= stats["read_nbytes"] <= nbytes + 4096 * len(model)
    assert stats["engine"] in ("io_uring", "pread")
    assert stats["seconds"] > 0
    file = stats["files"]["part-00000.ckptfmt"]
    assert set(file) == {"direct_nbytes", "buffered_nbytes", "mapped_nbytes", "reason"}
    assert file["direct_nbytes"] + file["buffered_nbytes"] == stats["read_nbytes"]


def test_load_in_words(checkpoint: Path) -> None:
    lines = run("load", checkpoint, "--names", "layers.0.*", "--names", "position_ids").stdout
    first, second, third = lines.splitlines()
    assert first.startswith("4 tensors, 2.10 MB in ")
    assert first.endswith("2.10 MB verified")
    assert "threads, limited by " in second
    assert third.startswith("  part-00000.ckptfmt: direct ")


@pytest.mark.parametrize(
    ("options", "verified"),
    [
        (["--no-verify"], False), (["--mmap"], False), (["--dtype", "fp16"], True),
        (["--framework", "numpy", "--names", "layers.*"], True),
    ],
)  # fmt: skip
def test_load_in_other_ways(options: list[str], verified: bool, checkpoint: Path) -> None:
    stats = data("load", checkpoint, *options)
    assert (stats["verified_nbytes"] > 0) == verified


# ---- inspect ----


def test_inspect_lists_tensors(checkpoint: Path, model: Tensors) -> None:
    result = run("inspect", checkpoint)
    assert (result.exit_code, result.stderr) == (0, "")
    head, table = result.stdout.split("\n\n")
    labels = dict(line.split(maxsplit=1) for line in head.splitlines())
    assert labels["checkpoint"] == str(checkpoint)
    assert labels["tensors"] == "7, 2.70 MB"
    assert labels["source"] == "source (safetensors)"
    rows = table.splitlines()
    assert rows[0].split() == ["tensor", "dtype", "shape", "size", "partition:offset"]
    assert {row.split()[0] for row in rows[1:]} == set(model)
    assert any(row.split()[1:3] == ["BF16", "1000×300"] for row in rows)
    assert any(row.split()[:3] == ["layers.0.norm", "F32", "scalar"] for row in rows)


def test_inspect_as_a_tree(checkpoint: Path) -> None:
    tree = run("inspect", checkpoint, "--tree").stdout.split("\n\n")[1]
    assert "\nlayers  5 tensors, 2.10 MB\n" in tree
    assert "\n  0  3 tensors, 2.10 MB\n    attn  2 tensors, 2.10 MB\n    norm  4 B\n" in tree
    assert "bias" not in tree
    assert "      bias  14 B" in run("inspect", checkpoint, "--tree", "--depth", "4").stdout


def test_inspect_in_json(checkpoint: Path, model: Tensors) -> None:
    told = data("inspect", checkpoint)
    assert set(told) == {
        "format", "version", "id", "alignment", "nbytes", "dtypes", "partitions", "tensors",
        "metadata", "provenance",
    }  # fmt: skip
    assert (told["format"], told["version"], told["alignment"]) == ("ckptfmt", [1, 0], 4096)
    assert {name for t in told["tensors"] for name in t["names"]} == set(model)
    assert told["dtypes"]["F32"]["tensors"] == 3
    assert sum(d["nbytes"] for d in told["dtypes"].values()) == told["nbytes"]
    assert told["metadata"] == {"format": "pt"}
    assert told["provenance"]["source"]["kind"] == "safetensors"
    first = min((t for t in told["tensors"] if t["extents"]), key=lambda t: t["extents"][0])
    assert first["extents"][0] == [0, 4096, first["nbytes"]]


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    names = ["a\nb", "\x1b[31mred", "tab\t", "é", "x" * 3000]
    tied = torch.ones(2)
    ckptfmt.convert({**{n: torch.ones(1) for n in names}, "t1": tied, "t2": tied}, tmp_path / "x")
    for options in ([], ["--tree"]):
        out = run("inspect", tmp_path / "x", *options).stdout
        assert "\x1b" not in out
        assert "a\\nb  " in out
        assert "\\x1b[31mred" in out
    assert "t1 = t2  " in run("inspect", tmp_path / "x").stdout
    found = data("inspect", tmp_path / "x")
    assert [t["names"][0] for t in found["tensors"]] == [*names, "t1"]


# ---- verify ----


def test_verify_that_all_is_well(checkpoint: Path, source: Path) -> None:
    told = data("verify", checkpoint, "--against", source)
    assert set(told) == {
        "path", "ok", "files", "tensors", "nbytes", "compared", "seconds", "problems",
    }  # fmt: skip
    assert (told["ok"], told["tensors"], told["compared"], told["problems"]) == (True, 7, 7, [])
    result = run("verify", checkpoint, "--against", source)
    assert result.stdout.endswith(f"; 7 tensors equal {source}\n")
    assert result.stderr == ""


def test_verify_names_tensor_partition_and_offset(checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        offset = opened.info("layers.0.attn.weight").extents[0].offset
    flip(checkpoint / "part-00000.ckptfmt", offset + (1 << 20) + 5)
    result = run("verify", checkpoint)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    block = offset + (1 << 20)
    wanted = f"ckptfmt: {checkpoint}: part-00000.ckptfmt: 'layers.0.attn.weight': bytes {block}.."
    assert line.startswith(wanted)
    result = run("verify", checkpoint, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    (problem,) = told["problems"]
    assert set(problem) == {"file", "message", "tensor", "offset"}
    assert (problem["file"], problem["tensor"]) == ("part-00000.ckptfmt", "layers.0.attn.weight")
    assert problem["offset"] == block


def test_verify_against_another_source_fails(
    tmp_path: Path, checkpoint: Path, model: Tensors
) -> None:
    other = {n: t for n, t in model.items() if n != "position_ids"}
    other["layers.0.attn.bias"] = model["layers.0.attn.bias"] * 2 + 1
    write_folder(tmp_path / "other", other)
    result = run("verify", checkpoint, "--against", tmp_path / "other")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert any("'layers.0.attn.bias': differs from other at byte 0" in line for line in lines)
    assert any("'position_ids': is in the checkpoint, not in " in line for line in lines)


# ---- export ----


def test_export_and_convert_again(tmp_path: Path, checkpoint: Path, model: Tensors) -> None:
    told = data("export", checkpoint, tmp_path / "back", "--shard-size", "1MB")
    assert told["path"] == str(tmp_path / "back")
    count = len(told["files"])
    assert told["files"] == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == sorted(
        [*told["files"], "config.json", "tokenizer", "model.safetensors.index.json"]
    )
    assert run("convert", tmp_path / "back", tmp_path / "again").exit_code == 0
    found = ckptfmt.load(tmp_path / "again")
    assert all(equal_bits(found[name], t) for name, t in model.items())
    assert run("verify", tmp_path / "again", "--against", checkpoint).exit_code == 0
