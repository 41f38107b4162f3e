"""``ckptfmt selftest``: it passes where loads are right, and can fail where they are not."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import ckptfmt
from ckptfmt import dtypes, selftest, selftest_model
from ckptfmt.cli import main
from ckptfmt.errors import OptionError
from ckptfmt.selftest_report import FAILED, Difference, DifferentError, Report, Step
from ckptfmt.truth import Truth
from tests.helpers.children import run_cli
from tests.helpers.handmade import flip
from tests.helpers.models import random_tensor
from tests.helpers.simulator import environment
from tests.helpers.torch_npu import MISSING, PYTHON

needs_npu = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is torch_npu")

WITHOUT = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "LD_LIBRARY_PATH": ""}
ROWS = [dtypes.DTYPES[name] for name in ("BF16", "F32", "BOOL", "U8", "C64", "F8_E4M3")]
Tensors = dict[str, torch.Tensor]


# ---- the checkpoint it makes ----


def test_its_checkpoint_has_what_loads_find_difficult(tmp_path: Path) -> None:
    path = selftest_model.make(str(tmp_path), 16 << 20, ROWS)
    assert ckptfmt.verify(path).ok
    with ckptfmt.open(path) as checkpoint:
        entries = checkpoint.index.tensors
        sizes = [entry.nbytes for entry in entries]
        assert 14 << 20 < sum(sizes) < 24 << 20
        assert sum(0 < size < 1 << 20 for size in sizes) > 2000
        assert max(sizes) == 4 << 20
        assert 0 in sizes
        assert {entry.dtype for entry in entries} == {row.name for row in ROWS}
        assert any(entry.shape == () for entry in entries)
        assert any(len(entry.names) == 2 for entry in entries)
        assert any(len(entry.extents) > 1 for entry in entries)
        assert len(checkpoint.index.partitions) > 2
        for edge in selftest_model.EDGES:
            assert any(edge - 8 < size <= edge for size in sizes)
    assert set(ckptfmt.load(path, names="*.small.2.weight")["model.layers.2.small.2.weight"]
               .view(-1).view(torch.uint8).tolist()) <= {0, 1}  # fmt: skip


def test_a_checkpoint_too_small_for_all_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="expected at least"):
        selftest_model.make(str(tmp_path), 1 << 20, ROWS)


# ---- comparing ----


@pytest.fixture
def loaded(checkpoint: Path) -> Tensors:
    return ckptfmt.load(checkpoint)


def entries(path: Path, *names: str) -> list[Any]:
    with ckptfmt.open(path) as checkpoint:
        return [e for e in checkpoint.index.tensors if not names or e.name in names]


def test_equal_tensors_are_equal(
    checkpoint: Path, loaded: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptfmt.truth.CHUNK_NBYTES", 300_000)  # no multiple of a block
    done = []
    with Truth(str(checkpoint)) as truth, ckptfmt.open(checkpoint) as opened:
        truth.compare(entries(checkpoint), loaded, done.append)
        assert sum(done) == opened.nbytes
        sums = {name: opened.crc32c(name) for name in opened}
        truth.compare_checksums(entries(checkpoint), loaded, sums)


def test_the_first_differing_byte_is_found(
    checkpoint: Path, loaded: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptfmt.truth.CHUNK_NBYTES", 300_000)
    raw = loaded["layers.0.attn.weight"].view(-1).view(torch.uint8)
    was = bytes(raw[1_234_567 : 1_234_567 + 16].tolist())
    raw[1_234_567] ^= 0x10
    raw[2_000_000] ^= 0xFF
    loaded["position_ids"].view(torch.uint8).view(-1)[3] ^= 1
    with Truth(str(checkpoint)) as truth:
        with pytest.raises(DifferentError) as caught:
            truth.compare(
                entries(checkpoint, "layers.0.attn.weight") + entries(checkpoint, "position_ids"),
                loaded,
            )
        checksums = {name: truth.checksum(tensor) for name, tensor in loaded.items()}
        with ckptfmt.open(checkpoint) as opened:
            right = {name: opened.crc32c(name) for name in opened}
        assert {name for name in right if right[name] != checksums[name]} == {
            "layers.0.attn.weight", "position_ids",
        }  # fmt: skip
        with pytest.raises(DifferentError):
            truth.compare_checksums(entries(checkpoint), loaded, right)
    found = bytes([was[0] ^ 0x10]) + was[1:]
    expected = Difference("layers.0.attn.weight", 1_234_567, was.hex(), found.hex())
    assert (caught.value.first, caught.value.count) == (expected, 2)
    assert str(caught.value) == (
        f"tensor 'layers.0.attn.weight', byte 1234567: expected {was.hex()}, "
        f"found {found.hex()}; 2 tensors differ"
    )


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("layers.0.attn.bias", torch.zeros(7), "F32 [7]"),
        ("layers.0.attn.bias", torch.zeros(8, dtype=torch.float16), "F16 [8]"),
        ("layers.1.empty", torch.zeros(5, 0), "F32 [5, 0]"),
    ],
)
def test_another_dtype_or_shape_is_a_difference(
    name: str, tensor: torch.Tensor, found: str, checkpoint: Path
) -> None:
    (entry,) = entries(checkpoint, name)
    with Truth(str(checkpoint)) as truth:
        difference = truth.difference(entry, {name: tensor})
    assert difference is not None
    assert (difference.offset, difference.found) == (0, found)
    assert difference.expected == f"{entry.dtype} {list(entry.shape)}"


def test_tied_names_have_to_share_their_memory(tmp_path: Path) -> None:
    shared = random_tensor((100, 3), torch.float32)
    ckptfmt.convert({"a": shared, "b": shared}, tmp_path / "x")
    (entry,) = entries(tmp_path / "x")
    with Truth(str(tmp_path / "x")) as truth:
        assert truth.difference(entry, {"a": shared, "b": shared}) is None
        difference = truth.difference(entry, {"a": shared, "b": shared.clone()})
    assert difference == Difference("b", 0, "the memory of 'a'", "memory of its own")


# ---- reports, and where there is no NPU ----


def test_a_report_is_ok_if_it_came_to_its_end_and_nothing_failed() -> None:
    assert Report("npu:0", steps=[Step("a"), Step("b", "unavailable", "no such thing")]).ok
    assert not Report("npu:0", steps=[Step("a"), Step("b", FAILED)]).ok
    assert not Report("npu:0", steps=[Step("a")], interrupted=True).ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--against", "nowhere"], "but no checkpoint"),
        (["--size", "1MiB"], "expected at least"),
        (["--size", "much"], "'much' is not a byte count"),
        (["--device", "cpu"], "the self-test is for NPUs"),
        (["--device", "auto"], "device is 'auto'"),
    ],
)
def test_misuse(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["selftest", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_without_an_npu_the_report_says_what_is_missing() -> None:
    child = run_cli("selftest", **WITHOUT)
    assert child.returncode == 1
    report = json.loads(child.stdout)
    assert report["ok"] is False
    assert report["ckptfmt_selftest"] == 1
    assert report["host"]["ckptfmt"] == ckptfmt.__version__
    (step,) = report["steps"]
    assert (step["name"], step["outcome"]) == ("device", "failed")
    assert step["message"].startswith("MissingDependencyError: device 'npu:0' needs torch_npu and")
    assert f"failed       device: {step['message']}" in child.stderr.splitlines()


# ---- on NPUs ----

#: A smaller model than a person would take, and no more: the command does the rest.
CODE = """
import sys
from ckptfmt import selftest_model
selftest_model.SMALL = 150
{before}
from ckptfmt.cli import main
main(sys.argv[1:])
"""


def run(*args: str | Path, before: str = "", **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command on the simulated runtime; `before` is code to change what it tests."""
    return subprocess.run(
        [PYTHON, "-c", CODE.format(before=before), "selftest", *map(str, args)],
        env=environment(**{"memory": "1G", **settings}), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def outcomes(child: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Of each step of the report, which is all of stdout; stderr told the same."""
    found = {step["name"]: step["outcome"] for step in json.loads(child.stdout)["steps"]}
    lines = child.stderr.splitlines()
    for name, outcome in found.items():
        start = f"{outcome:<11}  {name}"
        assert any(line == start or line.startswith(f"{start}: ") for line in lines), name
    return found


STRATEGIES = [
    f"strategy {letter}, {reads}" for letter in "ABCD" for reads in ("direct reads", "page cache")
]


@needs_npu
def test_all_ways_of_a_server(tmp_path: Path) -> None:
    report_path = tmp_path / "account.json"
    child = run(
        "--folder", tmp_path, "--size", "8MiB", "--repeats", "6", devices=2, report=report_path
    )
    assert child.returncode == 0, child.stderr
    names = [
        "device", "make a checkpoint", "checkpoint", "probe", "link", *STRATEGIES,
        "synchronous copies", "load_into", "stream", "several devices", "repeats",
    ]  # fmt: skip
    assert outcomes(child) == dict.fromkeys(names, "ok")
    report = json.loads(child.stdout)
    assert report["npu"]["library"].endswith("libascendcl.so")
    assert report["npu"]["devices"] == 2
    steps = {step["name"]: step for step in report["steps"]}
    assert list(steps["probe"]["details"]["admitted"]) == ["A", "B", "C", "D"]
    assert steps["probe"]["details"]["refused"] == {"E": "run mode EP"}
    for name in STRATEGIES:
        details = steps[name]["details"]
        assert details["staging"].startswith(name.split()[1].rstrip(",") + ": ")
        assert details["share_of_link"] > 0
        files = details["files"]
        ways = (files["buffered_nbytes"], files["direct_nbytes"])
        assert ways[0 if "cache" in name else 1] == sum(ways) > 0
    assert set(steps["several devices"]["details"]["nbytes_by_device"]) == {"npu:0", "npu:1"}
    repeats = steps["repeats"]["details"]
    assert (repeats["done"], repeats["letters"]) == (6, ["A", "B", "C", "D"])
    assert repeats["reused"] == 6
    assert repeats["tensors_copied"] > 6
    assert not list(tmp_path.glob("ckptfmt-selftest-*"))
    account = json.loads(report_path.read_text())
    assert account["violations"] == []
    assert account["wrong_thread_calls"] == account["corrupted_copies"] == 0
    for kind in ("host", "registered", "streams", "events"):
        assert not [r for r in account["live"][kind] if r.get("pending")]


@needs_npu
def test_all_ways_of_a_board_and_a_checkpoint_of_ones_own(
    checkpoint: Path, source: Path
) -> None:
    child = run(checkpoint, "--against", source, "--repeats", "3", soc="Ascend310B4")
    assert child.returncode == 0, child.stderr
    assert outcomes(child) == {
        "device": "ok", "checkpoint": "ok", "probe": "ok", "link": "unavailable",
        "strategy E": "ok", "synchronous copies": "ok", "load_into": "ok", "stream": "ok",
        "several devices": "unavailable", "repeats": "ok",
    }  # fmt: skip
    report = json.loads(child.stdout)
    assert report["checkpoint"]["against"] == str(source)
    assert report["steps"][1]["details"]["compared"] == 7
    assert report["steps"][1]["message"].endswith("7 tensors equal the source's")


@needs_npu
def test_a_damaged_checkpoint_proves_nothing(checkpoint: Path) -> None:
    flip(checkpoint / "part-00000.ckptfmt", 5000)
    child = run(checkpoint)
    assert child.returncode == 1
    assert outcomes(child) == {"device": "ok", "checkpoint": "failed"}
    assert "part-00000.ckptfmt" in json.loads(child.stdout)["steps"][1]["message"]


@needs_npu
def test_copies_that_do_not_wait_for_torch_are_found(checkpoint: Path) -> None:
    """The same loads without their order: what the repeats are there to notice."""
    before = """
from contextlib import contextmanager
from ckptfmt.npu import Npu
@contextmanager
def unordered(self):
    yield 0
Npu.ordered = unordered
"""
    child = run(checkpoint, "--repeats", "4", before=before, operator_us=20_000)
    assert child.returncode == 1
    found = outcomes(child)
    assert found.pop("repeats") == "failed"
    report = json.loads(child.stdout)
    (step,) = [s for s in report["steps"] if s["name"] == "repeats"]
    difference = step["difference"]
    assert set(difference) == {"tensor", "offset", "expected", "found"}
    assert difference["expected"] != difference["found"]
    assert difference["tensor"] in ckptfmt.open(checkpoint).names


@needs_npu
def test_wrong_bytes_are_found_and_the_other_steps_go_on(checkpoint: Path) -> None:
    before = """
from ckptfmt import device_plan
right = device_plan.plan_copies
def wrong(*args):
    copies, begins = right(*args)
    copies["nbytes"] -= copies["nbytes"] > 1  # the last byte stays behind
    return copies, begins
device_plan.plan_copies = wrong
"""
    child = run(checkpoint, "--repeats", "2", before=before)
    assert child.returncode == 1
    found = outcomes(child)
    assert {name for name, outcome in found.items() if outcome == "failed"} == {
        *STRATEGIES, "synchronous copies", "load_into", "stream", "repeats",
    }  # fmt: skip
    for step in json.loads(child.stdout)["steps"]:
        if step["outcome"] == "failed":
            assert step["difference"]["offset"] > 0
            assert "tensors differ" in step["message"] or step["name"] == "stream"


@needs_npu
def test_a_device_that_fails_once_fails_one_step(checkpoint: Path) -> None:
    before = """
from ckptfmt import selftest_steps
from tests.helpers.simulator import Simulator
load = selftest_steps.load
def failing(bench, step, options):
    if step.name == "strategy B, page cache":
        Simulator().fail("aclrtMemcpyAsync:1=507052")
    load(bench, step, options)
selftest_steps.load = failing
"""
    child = run(checkpoint, "--repeats", "2", before=before)
    assert child.returncode == 1
    failed = {name for name, outcome in outcomes(child).items() if outcome == "failed"}
    assert failed == {"strategy B, page cache"}
    (step,) = [s for s in json.loads(child.stdout)["steps"] if s["outcome"] == "failed"]
    assert step["message"].startswith("DeviceError: aclrtMemcpyAsync failed with code 507052")


@needs_npu
def test_a_model_that_does_not_fit_is_unavailable_but_for_streams(checkpoint: Path) -> None:
    child = run(checkpoint, "--repeats", "2", memory="200M")
    assert child.returncode == 0, child.stderr
    found = outcomes(child)
    assert {found[name] for name in (*STRATEGIES, "load_into", "repeats")} == {"unavailable"}
    assert found["stream"] == "ok"


@needs_npu
def test_ctrl_c_prints_what_there_is(checkpoint: Path) -> None:
    child = subprocess.Popen(
        [PYTHON, "-c", CODE.format(before=""), "selftest", checkpoint, "--repeats", "100000"],
        env=environment(memory="1G"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if "several devices" in line:
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 1, err
    report = json.loads(out)
    assert (report["interrupted"], report["ok"]) == (True, False)
    assert report["steps"][0]["outcome"] == "ok"
    names = [step["name"] for step in report["steps"]]
    assert "several devices" in names
    assert [s["message"] for s in report["steps"] if s["name"] == "repeats"] in (
        [], ["interrupted"],
    )  # fmt: skip


@needs_npu
def test_from_python() -> None:
    code = """
import sys
from ckptfmt import selftest, selftest_model
selftest_model.SMALL = 50
begun, ended = [], []
class Listener:
    def begin(self, name): begun.append(name)
    def progress(self, done, total): assert 0 <= done <= total
    def end(self, step): ended.append(step.name)
report = selftest.run(nbytes=8 << 20, repeats=1, listener=Listener())
assert report.ok, report
assert begun == ended == [step.name for step in report.steps]
"""
    child = subprocess.run(
        [PYTHON, "-c", code], env=environment(memory="1G"),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr


def test_the_default_size_is_the_one_of_the_command() -> None:
    option = next(p for p in main.commands["selftest"].params if p.name == "size")
    assert ckptfmt.units.parse_nbytes(option.default) == selftest.DEFAULT_NBYTES
