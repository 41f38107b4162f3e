"""doctor on NPUs of the simulated runtime, under the real torch_npu: what only trying shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.trees import TABLE_310B
from tests.helpers.simulator import build, environment
from tests.helpers.torch_npu import MISSING, PYTHON

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is torch_npu")

Found = dict[str, dict[str, Any]]


def examined(
    *args: str | Path, variables: dict[str, str] | None = None, **settings: Any
) -> tuple[Found, int]:
    """Findings by check, and the exit code."""
    child = subprocess.run(
        [PYTHON, "-m", "ckptfmt", "doctor", "--json", *map(str, args)],
        env={**environment(**settings), **(variables or {})}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert child.stdout, child.stderr  # all of it is JSON
    report = json.loads(child.stdout)
    assert child.returncode == (0 if report["ok"] else 1)
    return {f["check"]: f for f in report["findings"]}, child.returncode


def test_a_device_that_works_counts_more_than_files_that_are_missing() -> None:
    found, code = examined(version="8.5.0", devices=2, visible_devices="0,1", start_ms=300)
    assert code == 0
    assert found["probe.import"]["found"].startswith("torch 2.")
    told = found["probe.device"]["found"]
    assert told.startswith("npu:0 is Ascend910B3, physical device 0, EP mode, CANN 8.5.0, driver ")
    assert "free; device start-up " in told
    assert told.endswith(" s (not loading time)")
    assert float(told.split("start-up ")[1].split(" s")[0]) >= 0.3
    assert found["probe.staging"]["found"].startswith("strategy A: own huge pages registered with ")
    assert found["probe.staging"]["level"] == "OK"
    assert found["probe.link"]["found"].split(";")[0].endswith("/s")
    nodes = found["device.nodes"]
    assert (nodes["level"], nodes["concerns"]) == ("WARN", "ckptfmt")
    assert nodes["found"].startswith("missing: /dev/davinci0")
    assert nodes["found"].endswith("; copies to npu:0 work all the same")
    assert found["cann.library"]["found"].endswith("of a CANN that does not tell its version")
    assert found["torch.npu"]["level"] == "OK"
    assert found["probe.library"]["found"] == "torch_npu has opened it"
    assert "is not in the tables of" in found["torch.cann"]["found"]


def test_a_board_says_what_it_is_and_a_slow_link_is_named(tmp_path: Path) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{TABLE_310B}END\n")
    tool.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    found, code = examined(soc="Ascend310B4", memory="1G", variables=variables)
    assert code == 0
    assert found["probe.device"]["found"].startswith(
        "npu:0 is Ascend310B4, memory shared with the host, physical device 0, RC mode, "
    )
    assert found["probe.staging"]["found"].startswith("strategy E: ")
    assert found["probe.link"]["found"] == "nothing is copied: host and device have one memory"
    assert found["device.smi"]["level"] == "WARN"
    assert "Health Alarm, which is common on this board" in found["device.smi"]["found"]
    assert found["machine.kernel"]["level"] == "OK"


def test_a_slow_link_and_refused_registration_are_named() -> None:
    fail = "aclrtHostRegister:*=207000,aclrtHostRegisterV2:*=507899"
    found, code = examined("--device", "npu:0", fail=fail, h2d=2)
    assert code == 0
    told = found["probe.staging"]["found"]
    assert told.startswith("strategy C: aclrtMallocHost")
    assert "not A: aclrtHostRegisterV2" in told
    assert "507899" in told
    assert "not B: aclrtHostRegister" in told
    link = found["probe.link"]
    assert link["level"] == "WARN"
    assert link["found"].endswith("; Ascend910B3 takes some 20 GB/s")
    rate, unit = link["found"].split(";")[0].split()
    assert unit == "GB/s"
    assert float(rate) < 2.1


@pytest.mark.parametrize(
    ("fail", "check", "words", "fix"),
    [
        ("aclrtSetDevice:1+=207006", "probe.device", "207006", "join the group HwHiAiUser"),
        pytest.param("aclInit:1=100039", "probe.device", "100039", "is a stub to compile against",
                     marks=pytest.mark.slow),
        pytest.param("aclrtSetDevice:1+=107001", "probe.device", "107001", "npu-smi info lists",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_the_runtime_refuses_is_named_with_the_next_step(
    fail: str, check: str, words: str, fix: str
) -> None:
    found, code = examined("--device", "npu:0", fail=fail)
    assert code == 1
    assert found[check]["level"] == "FAIL"
    assert words in found[check]["found"]
    assert fix in found[check]["fix"]
    assert found["probe.staging"]["level"] == "SKIP"
    assert found["device.nodes"]["level"] == "FAIL"  # nothing speaks against what files say


def test_an_import_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    library = tmp_path / "libascendcl.so"
    library.symlink_to(build() / "libascendcl.so")  # and none of the others
    found, code = examined("--device", "npu:0", variables={"LD_LIBRARY_PATH": str(tmp_path)})
    assert code == 1
    assert found["probe.import"]["level"] == "FAIL"
    assert "libhccl.so: cannot open shared object file" in found["probe.import"]["found"]
    assert found["probe.device"]["level"] == "SKIP"
    assert found["probe.library"]["level"] == "OK"
    assert "opens: what is missing is torch_npu's" in found["probe.library"]["found"]


@pytest.mark.slow
def test_the_memory_of_the_device_is_what_the_runtime_says(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    with model.open("wb") as stream:
        stream.truncate(2 << 30)
    found, code = examined("--device", "npu:0", "--for", model, memory="1G")
    assert code == 1
    assert found["memory.fit"]["found"].startswith("model 2.15 GB, device free 1.0")
    assert ": does not fit" in found["memory.fit"]["found"]
