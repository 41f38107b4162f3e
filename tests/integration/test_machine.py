"""What reports say of the machine: read from files as installations and kernels have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import ckptfmt
from ckptfmt import cann_files, machine


@pytest.fixture(autouse=True)
def _no_cann(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    monkeypatch.setattr(cann_files, "HOMES", ())
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        ("version.cfg", "# comment\nruntime_running_version=[7.6.0.1.220:8.0.0]\nx=1\n", "8.0.0"),
        ("aarch64-linux/ascend_toolkit_install.info",
         "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001\n", "8.1.RC1"),
        ("share/info/runtime/version.info", "Version=8.5.0.2.220\n", "8.5.0.2.220"),
        ("version.cfg", "nothing of it\n", ""),
    ],
)  # fmt: skip
def test_the_version_of_cann_by_its_files(
    file: str, text: str, version: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert machine.cann_version() == version


def test_no_files_no_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "nowhere"))
    assert machine.cann_version() == ""
    monkeypatch.delenv("ASCEND_HOME_PATH")
    assert machine.cann_version() == ""
    assert machine.driver_version(str(tmp_path / "nowhere")) == ""


def test_the_version_of_the_driver_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("Version=25.0.rc1.1\npackage_version=x\n")
    info = tmp_path / "install.info"
    info.write_text(f"UserName=HwHiAiUser\nDriver_Install_Path_Param={tmp_path}\n")
    assert machine.driver_version(str(info)) == "25.0.rc1.1"


def test_the_host_is_told_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTFMT_IO", "pread")
    found = json.loads(json.dumps(machine.host_facts()))
    assert found["ckptfmt"] == ckptfmt.__version__
    assert found["page_nbytes"] == os.sysconf("SC_PAGE_SIZE")
    assert found["settings"]["CKPTFMT_IO"] == "pread"
    assert 0 < found["available_nbytes"] <= found["memory_nbytes"]
    assert found["io_uring"] == "yes" or found["io_uring"].startswith("no: ")


def test_files_and_packages(tmp_path: Path) -> None:
    assert machine.filesystem("/proc") == "proc"
    assert machine.package_version("click").count(".") >= 1
    assert machine.package_version("no-such-package") == ""
    assert machine.loaded_library("libc.so").startswith("/")
    assert machine.loaded_library("libnothing.so") == ""
