"""What each version of CANN has, and how the libraries are built."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.acl import build as maker
from tests.helpers.simulator import VERSIONS, Simulator, build, environment
from tests.simulator.conftest import Simulate
from tests.simulator.runtime import FEATURE_NOT_SUPPORT

#: Some of what each version brought, from the oldest on.
NEW = {
    "7.0.0": ["aclrtMalloc", "aclrtMemcpyAsync", "aclrtCreateEventWithFlag", "aclrtStreamQuery"],
    "8.0.0": ["aclrtCreateEventExWithFlag", "aclrtGetLastError"],
    "8.1.RC1": ["aclrtHostRegister", "aclrtPointerGetAttributes", "aclsysGetCANNVersion"],
    "8.3.RC1": ["aclrtMemcpyBatch"],
    "8.5.0": ["aclrtHostRegisterV2", "aclFinalizeReference", "aclsysGetVersionStr"],
    "9.1.0": ["aclrtMemcpyBatchV2"],
}


@pytest.mark.parametrize("version", VERSIONS)
def test_newer_functions_are_not_there(simulate: Simulate, version: str) -> None:
    runtime = simulate(version, strict=True, started=False)
    known = VERSIONS[: VERSIONS.index(version) + 1]
    for first, names in NEW.items():
        for name in names:
            assert runtime.has(name) == (first in known), name
    missing = {name for name in maker.FIRST if not runtime.has(name)}
    assert missing == set(maker.hidden(version, strict=True))
    assert runtime.account()["strict"] is True


@pytest.mark.parametrize("version", VERSIONS)
def test_what_torch_npu_links_against_stays_unless_strict(simulate: Simulate, version: str) -> None:
    runtime = simulate(version, started=False)
    assert all(runtime.has(name) for name in maker.NEEDED_BY_TORCH_NPU)
    missing = {name for name in maker.FIRST if not runtime.has(name)}
    assert missing == set(maker.hidden(version, strict=True)) - maker.NEEDED_BY_TORCH_NPU


def test_sharing_memory_is_refused_as_a_feature(simulate: Simulate) -> None:
    assert simulate("8.0.0").library.aclrtMemExportToShareableHandle() == FEATURE_NOT_SUPPORT


def test_versions_are_in_order() -> None:
    names = ["7.0.0", "8.0.0", "8.0.9", "8.1.RC1", "8.1.RC2", "8.1.0", "8.3.RC1", "8.5.0", "9.1.0"]
    assert sorted(names, key=maker.number) == names
    with pytest.raises(ValueError, match="not a version"):
        maker.number("8.5")


def test_the_version_is_told(simulate: Simulate) -> None:
    runtime = simulate("8.5.0", driver="25.5.1")
    version = ctypes.create_string_buffer(512)
    for package, expected in [(0, b"8.5.0"), (1, b"8.5.0"), (7, b"25.5.1")]:
        runtime.ok("aclsysGetCANNVersion", package, version)
        assert version.value == expected
    runtime.ok("aclsysGetVersionStr", b"runtime", version)
    assert version.value == b"8.5.0"
    assert runtime.number("aclsysGetVersionNum", b"runtime") == 80500000
    assert simulate("8.1.RC1").account()["cann"] == "8.1.RC1"


@pytest.mark.parametrize("name", maker.COMPANIONS)
def test_the_companions_lead_to_the_runtime(name: str) -> None:
    library = ctypes.CDLL(str(build() / f"lib{name}.so"))
    assert library.aclrtGetRunMode is not None


def test_a_build_is_made_once_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def link(objects: list[Path], folder: Path, version: str, *, strict: bool) -> None:
        made.append(version)
        folder.mkdir()

    monkeypatch.setattr("tests.helpers.simulator._cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(maker, "link", link)
    monkeypatch.setattr(maker, "compile_objects", lambda folder: folder.mkdir())
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: build("8.0.0"), range(32)))
    assert found == {tmp_path / "cache" / "8.0.0"}
    assert made == ["8.0.0"]


def test_the_command_line_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reuse(folder: Path, flags: tuple[str, ...]) -> list[Path]:
        folder.mkdir(parents=True)
        return sorted((build().parent / "objects").glob("*.o"))

    monkeypatch.setattr(maker, "compile_objects", reuse)
    target = str(tmp_path / "sim")
    monkeypatch.setattr(sys, "argv", ["build.py", "--cann", "8.2.RC1", "--strict", target])
    maker.main()
    assert {path.name for path in (tmp_path / "sim").iterdir()} == {
        "libascendcl.so", *(f"lib{name}.so" for name in maker.COMPANIONS)
    }  # fmt: skip
    account = Simulator(tmp_path / "sim" / "libascendcl.so").account()
    assert (account["cann"], account["strict"]) == ("8.2.RC1", True)
    monkeypatch.setattr(sys, "argv", ["build.py", "--cann", "eight", target])
    with pytest.raises(SystemExit) as exit_info:
        maker.main()
    assert exit_info.value.code == 1
    assert "not a version like 8.5.0 or 8.1.RC1: 'eight'" in capsys.readouterr().err


def test_the_environment_has_no_other_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", "/usr/local/Ascend/cann")
    monkeypatch.setenv("ACLSIM_DEVICES", "7")
    found = environment(visible_devices="1", devices=2, h2d=1.5)
    assert {n: v for n, v in found.items() if n.startswith(("ASCEND_", "ACLSIM_"))} == {
        "ACLSIM_DEVICES": "2", "ACLSIM_H2D": "1.5", "ASCEND_RT_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    assert found["LD_LIBRARY_PATH"].split(":")[0] == str(build())
