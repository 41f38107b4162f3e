"""``ckptfmt load`` to NPUs as a person meets it: in words, in JSON, and where there is no NPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import ckptfmt
from ckptfmt.cli import main
from ckptfmt.cli_devices import device_of
from ckptfmt.errors import OptionError
from tests.helpers.children import run_child, run_cli
from tests.helpers.simulator import environment
from tests.helpers.torch_npu import MISSING, PYTHON

needs_npu = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is torch_npu")

WITHOUT = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "LD_LIBRARY_PATH": ""}
Child = subprocess.CompletedProcess[str]


def run(*args: str | Path) -> Result:
    """One command in this process, which has no NPU."""
    return CliRunner().invoke(main, [*map(str, args)])


def on_npus(*args: str | Path, variables: dict[str, str] | None = None, **settings: Any) -> Child:
    """One command on the simulated runtime."""
    env = {**environment(**settings), **(variables or {})}
    return subprocess.run(
        [PYTHON, "-m", "ckptfmt", *map(str, args)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def told(*args: str | Path, **settings: Any) -> tuple[dict[str, Any], str]:
    """What a load tells in JSON, and what it says on stderr."""
    child = on_npus("load", *args, "--json", **settings)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout), child.stderr  # all of stdout is JSON


# ---- what is meant ----


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ([], "cpu"), (["npu:3"], "npu:3"), (["auto"], "auto"),
        (["npu:0", "model.layers.1=npu:1"], {"": "npu:0", "model.layers.1": "npu:1"}),
        (["a=npu:0", "=npu:1"], {"a": "npu:0", "": "npu:1"}),
        (["odd=name=npu:0", "npu"], {"odd=name": "npu:0", "": "npu"}),
    ],
)  # fmt: skip
def test_devices_by_module(values: list[str], meant: object) -> None:
    assert device_of(tuple(values)) == meant


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["npu:0", "npu:1"], "npu:0 is there already for what no MODULE= names"),
        (["a=npu:0", "a=npu:1"], "npu:0 is there already for module 'a'"),
        (["auto", "a=npu:1"], "auto places every module"),
        (["a=auto", "npu:1"], "auto places every module"),
    ],
)
def test_devices_that_contradict_each_other(values: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        device_of(tuple(values))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "npu:0", "--device", "npu:1"], "is there already"),
        (["--device", "gpu"], "device is 'gpu', expected 'cpu', 'npu'"),
        (["--trace", "t.json", "--mmap"], "a trace shows reads"),
    ],
)
def test_misuse_is_told_before_anything_is_read(
    options: list[str], words: str, checkpoint: Path
) -> None:
    result = run("load", checkpoint, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert words in line


def test_a_trace_that_cannot_be_written_is_told_before_the_load(checkpoint: Path) -> None:
    target = checkpoint / "nowhere" / "t.json"
    result = run("load", checkpoint, "--device", "npu:0", "--trace", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{target.parent}: the trace cannot be written there" in result.stderr


# ---- where there is no NPU ----


def test_without_an_npu_one_line_says_what_is_missing_and_where_it_looked(
    checkpoint: Path,
) -> None:
    child = run_cli("load", checkpoint, "--device", "npu:0", **WITHOUT)
    assert (child.returncode, child.stdout) == (1, "")
    line = child.stderr.splitlines()[-1]
    assert line.startswith("ckptfmt: device 'npu:0' needs torch_npu and CANN: ")
    assert "/usr/local/Ascend/ascend-toolkit/latest/lib64/libascendcl.so" in line
    assert "pip install torch-npu" in line
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize("devices", [["auto"], ["npu:0", "layers.0=npu:1"]])
def test_without_an_npu_every_way_says_so(devices: list[str], checkpoint: Path) -> None:
    options = [text for device in devices for text in ("--device", device)]
    child = run_cli("load", checkpoint, *options, **WITHOUT)
    assert child.returncode == 1
    assert "needs torch_npu and CANN" in child.stderr


def test_a_load_to_the_cpu_tells_of_no_npu(checkpoint: Path) -> None:
    found = json.loads(run("load", checkpoint, "--json").stdout)
    assert (found["npus"], found["warnings"], found["trace"]) == ([], [], None)
    assert found["devices"] == ["cpu"]
    assert "npu" not in run("load", checkpoint).stdout


# ---- stdout is data ----


def test_what_libraries_print_goes_to_stderr() -> None:
    code = """
import ctypes, os, subprocess
from ckptfmt.terminal import stdout_kept
libc = ctypes.CDLL(None)
print("first")
with stdout_kept():
    print("python")
    os.write(1, b"descriptor\\n")
    libc.printf(b"libc\\n")
    subprocess.run(["echo", "child"], check=True)
print("last")
libc.printf(b"after\\n")
"""
    child = run_child(code)
    assert child.returncode == 0, child.stderr
    assert sorted(child.stdout.splitlines()) == ["after", "first", "last"]
    assert sorted(child.stderr.splitlines()) == ["child", "descriptor", "libc", "python"]


# ---- on NPUs ----


@needs_npu
def test_load_in_words(checkpoint: Path) -> None:
    child = on_npus(
        "load", checkpoint, "--device", "npu:1", devices=4, visible_devices="1,3", memory="1G",
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    first, engine, staging, start, npu, *files = child.stdout.splitlines()
    assert first.startswith("7 tensors, 2.70 MB in ")
    assert first.endswith("2.70 MB verified")
    assert "threads, limited by " in engine
    assert staging.startswith("staging A: own huge pages registered with aclrtHostRegisterV2")
    assert start.startswith("device start-up ")
    assert start.endswith(" s, not counted above")
    assert npu.startswith(
        "npu:1 is physical device 3: Ascend910B3, EP mode, CANN 8.5.0, driver 25.5.0; "
        "1.07 GB of 1.07 GB free before, "
    )
    assert npu.endswith(" MB after") or npu.endswith(" GB after")
    assert [line.split(":")[0] for line in files] == ["  part-00000.ckptfmt"]
    assert "warning: " not in child.stderr.replace("Warning", "")


@needs_npu
def test_load_in_json_with_a_trace(checkpoint: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    options = ["--device", "npu:0", "--trace", trace]
    found, _ = told(checkpoint, *options, version="8.1.RC1", memory="1G", start_ms=300)
    assert (found["tensors"], found["devices"], found["warnings"]) == (7, ["npu:0"], [])
    assert found["staging"].startswith("B: ")
    assert "not A: this CANN has no aclrtHostRegisterV2" in found["staging"]
    assert found["verified_nbytes"] == found["nbytes"]
    (npu,) = found["npus"]
    assert set(npu) == {
        "name", "physical", "soc", "computes_bf16", "run_mode", "cann", "driver", "torch_npu",
        "library", "total_nbytes", "free_before_nbytes", "free_after_nbytes", "start_seconds",
    }  # fmt: skip
    assert (npu["name"], npu["physical"], npu["cann"]) == ("npu:0", 0, "8.1.RC1")
    assert npu["library"].endswith("/libascendcl.so")
    assert npu["free_before_nbytes"] - npu["free_after_nbytes"] >= found["nbytes"]
    assert found["device_start_seconds"] >= 0.3  # what the runtime was told to take
    assert found["trace"] == str(trace)
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(e.get("args", {}).get("name") == "npu:0" for e in events)
    copied = sum(e["args"]["nbytes"] for e in events if e.get("name") == "copy to the device")
    assert copied >= found["nbytes"]


@needs_npu
def test_load_to_several_devices(checkpoint: Path) -> None:
    options = ["--device", "npu:0", "--device", "layers.0=npu:1"]
    found, _ = told(checkpoint, *options, devices=3, memory="1G")
    assert found["devices"] == ["npu:0", "npu:1"]
    assert [npu["name"] for npu in found["npus"]] == ["npu:0", "npu:1"]
    layer = sum(
        entry.nbytes
        for entry in ckptfmt.open(checkpoint).index.tensors
        if entry.name.startswith("layers.0.")
    )
    taken = found["npus"][1]["free_before_nbytes"] - found["npus"][1]["free_after_nbytes"]
    assert taken >= layer


@needs_npu
def test_auto_takes_all_devices_and_keeps_modules_whole(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.w": torch.ones(1000) for i in range(4)}
    tensors.update({f"vision.parts.{i}.w": torch.ones(1000) for i in range(4)})
    ckptfmt.convert(tensors, tmp_path / "x")
    found, _ = told(tmp_path / "x", "--device", "auto", devices=2, memory="1G")
    assert found["devices"] == ["npu:0", "npu:1"]
    child = on_npus(
        "load", tmp_path / "x", "--device", "auto", "--no-split", "visoin", devices=2, memory="1G"
    )
    assert (child.returncode, child.stdout) == (2, "")
    assert "'visoin'" in child.stderr.splitlines()[-1]


@needs_npu
@pytest.mark.parametrize(("soc", "mode"), [("Ascend310P3", "EP"), ("Ascend310B4", "RC")])
def test_bf16_on_a_chip_without_it_is_warned_of(soc: str, mode: str, checkpoint: Path) -> None:
    found, said = told(checkpoint, "--device", "npu:0", soc=soc, memory="1G")
    assert found["npus"][0]["run_mode"] == mode
    assert found["staging"].startswith("C: " if mode == "EP" else "E: ")
    (warning,) = found["warnings"]
    assert warning.startswith(f"npu:0 is an {soc}, which computes no bf16, and 1 of its tensors ")
    assert f"warning: {warning}" in said.splitlines()


@needs_npu
@pytest.mark.parametrize(
    ("options", "variables", "code", "words"),
    [
        (["--device", "npu:7"], {}, 1, "npu:7: torch_npu finds 1 devices"),
        (["--device", "npu:0"], {"CKPTFMT_NPU_STAGING": "E"}, 2, "staging E cannot be had"),
        (["--device", "npu:0", "--framework", "numpy"], {}, 2, "devices hold torch tensors"),
        (["--device", "nowhere=npu:0", "--device", "npu:0"], {}, 2, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    options: list[str], variables: dict[str, str], code: int, words: str, checkpoint: Path
) -> None:
    child = on_npus("load", checkpoint, *options, variables=variables, memory="1G")
    assert (child.returncode, child.stdout) == (code, "")
    assert "Traceback" not in child.stderr
    (line,) = [s for s in child.stderr.splitlines() if s.startswith("ckptfmt: ")]
    assert words in line


@needs_npu
@pytest.mark.parametrize(
    ("fail", "words"), [("aclInit:1=507000", "507000"), ("aclrtSetDevice:1+=507033", "507033")]
)
def test_a_device_that_cannot_be_brought_up_is_one_line(
    fail: str, words: str, checkpoint: Path
) -> None:
    child = on_npus("load", checkpoint, "--device", "npu:0", fail=fail)
    assert (child.returncode, child.stdout) == (1, "")
    assert "Traceback" not in child.stderr
    (line,) = [s for s in child.stderr.splitlines() if s.startswith("ckptfmt: ")]
    assert "npu:0: it cannot be brought up" in line
    assert words in line
