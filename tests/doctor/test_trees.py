"""Machines as people have reported them, each a tree of files, and exactly what doctor finds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt.doctor.examination import run
from ckptfmt.doctor.findings import Finding, Report
from ckptfmt.version import VERSION
from tests.doctor.trees import (
    ASCEND,
    TABLE_310B,
    TOOLKIT,
    Tree,
    board,
    checkpoint_of,
    gpu,
    guide,
    old_layout,
    processor,
    server,
    table_910b,
)

#: Level, check and a part of what it says.
Expected = tuple[str, str, str]
GB = 10**9


def examined(tree: Tree, device: str | None = None, checkpoint: Path | None = None) -> Report:
    return run(
        device, root=str(tree.root), checkpoint=str(checkpoint) if checkpoint is not None else None
    )


def wrong(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.level in ("WARN", "FAIL")]


def says(report: Report, check: str) -> str:
    """All that a check says, fixes included."""
    found = [f for f in report.findings if f.check == check]
    return "\n".join(f"{f.level}: {f.found} -> {f.fix}" for f in found)


def compare(report: Report, expected: list[Expected]) -> None:
    """Exactly these are wrong, in this order, and say that."""
    assert [(f.level, f.check) for f in wrong(report)] == [e[:2] for e in expected], "\n".join(
        f"{f.level} {f.check}: {f.found}" for f in wrong(report)
    )
    for finding, (_, _, text) in zip(wrong(report), expected, strict=True):
        assert text in f"{finding.found} -> {finding.fix}"
        assert finding.fix


# ---- healthy ----


@pytest.mark.parametrize(
    ("make", "device"),
    [(server, "npu:0"), (old_layout, "npu:0"), (processor, "cpu"), (gpu, "cuda:0")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_healthy_tree_has_nothing_wrong(
    make: Callable[[Path], Tree], device: str, tmp_path: Path
) -> None:
    tree = make(tmp_path / "root")
    report = examined(tree, checkpoint=checkpoint_of(tmp_path / "model", 2 * GB))
    compare(report, [])
    assert (report.device, report.is_ok) == (device, True)
    # What can be known from files is: nothing but probes and other devices is skipped.
    skipped = {f.check for f in report.findings if f.level == "SKIP"}
    other = {"npu:0": ("cuda.",), "cpu": ("cuda.", "cann.", "driver.", "device.", "torch."),
             "cuda:0": ("cann.", "driver.", "device.", "torch.", "memory.fit")}[device]  # fmt: skip
    unknown = {s for s in skipped if not s.startswith(("probe.", *other))}
    assert {s for s in unknown if not s.startswith("vllm.") or make is server} == set()


def test_a_healthy_server_is_told_in_full(tmp_path: Path) -> None:
    report = examined(server(tmp_path), "npu:1")
    assert report.device_reason == "asked for"
    assert f"CANN 8.5.0 at {ASCEND}/cann-8.5.0; strategy A" in says(report, "cann.staging")
    assert f"CANN found: 8.5.0 at {ASCEND}/cann-8.5.0" in says(report, "cann.installed")
    assert "NPU 1 is 910B3, Health OK, 47.01 GB of 68.72 GB free" in says(report, "device.smi")
    assert "vLLM 0.14.1: plugin registered as ckptfmt" in says(report, "vllm.plugin")
    assert "2 of /dev/davinci*" in says(report, "device.nodes")
    assert says(report, "torch.python").startswith("OK: torch_npu 2.9.0 is made for Python 3.10")


# ---- the two of the reports ----


def test_the_server_of_the_deployment_guide(tmp_path: Path) -> None:
    tree = guide(tmp_path / "root")
    report = examined(tree, checkpoint=checkpoint_of(tmp_path / "opt", int(2.6 * GB)))
    compare(report, [
        ("WARN", "machine.kernel", "up to 5.10 a driver registers no memory of ours"),
        ("WARN", "machine.proxy", "http_proxy is set and no_proxy lacks localhost"),
        ("FAIL", "torch.cann", "torch_npu 2.5.1 is made for CANN 8.1.RC1; this is 8.0.0 -> "
         "torch 2.4.0 + torch_npu 2.4.0.post2"),
        ("WARN", "vllm.plugin", "vLLM 0.7.3 takes no load formats of other packages"),
        ("FAIL", "vllm.row", "vllm-ascend 0.7.3.post1 wants CANN 8.1.RC1, found 8.0.0"),
        ("WARN", "vllm.nnal", "NNAL 8.1.RC1 with CANN 8.0.0"),
    ])  # fmt: skip
    assert not report.is_ok
    assert f"CANN 8.0.0 at {TOOLKIT}/8.0.0; strategy C (8.0 has no host registration)" in says(
        report, "cann.staging"
    )
    assert "conda environment sllm-worker" in says(report, "python.version")
    assert "this vLLM carries the sllm-store patch" in says(report, "vllm.patch")
    assert "ckptfmt does not need it" in says(report, "vllm.patch")
    assert says(report, "vllm.row").splitlines()[0].startswith(
        "OK: vllm-ascend 0.7.3.post1 wants Python 3.9 to below 3.12, found 3.10"
    )
    assert len(says(report, "vllm.row").splitlines()) == 4
    assert "transformers' device_map needs it, ckptfmt does not" in says(
        report, "python.accelerate"
    )
    assert "0,1: npu:0 is physical device 0" in says(report, "device.visible")
    assert (
        "OK: model 2.60 GB, device free 47.01 GB, host pool 268.44 MB of 549.76 GB: fits"
        in says(report, "memory.fit")
    )


def test_the_board_of_the_report(tmp_path: Path) -> None:
    tree = board(tmp_path / "root")
    report = examined(tree, checkpoint=checkpoint_of(tmp_path / "qwen", int(5.8 * GB)))
    compare(report, [
        ("WARN", "machine.memlock", "before Linux 5.12 the rings of io_uring count as locked"),
        ("WARN", "torch.cann", "torch_npu 2.7.1 is made for CANN 8.3.RC1; this is 8.0.0: copies "
         "work, operators may be missing"),
        ("WARN", "device.smi", "NPU 0 is Ascend310B4, memory shared with the host (16.37 GB); "
         "Health Alarm, which is common on this board"),
        ("WARN", "vllm.plugin", "vLLM 0.11.0: the installed ckptfmt has no entry point"),
        ("FAIL", "vllm.row", "vllm-ascend 0.11.0rc1 wants CANN 8.3.RC1, found 8.0.0"),
        ("FAIL", "vllm.chip", "vllm-ascend 0.11.0rc1 wants CANN 8.3.RC1, found 8.0.0, and lists no "
         "support for Ascend310B, and the operator package has no kernels for it. The weights load "
         "all the same -> install Ascend-cann-kernels-310b, try transformers + torch_npu"),
        ("FAIL", "vllm.atb", "libatb.so not found. Found at /home/HwHiAiUser/Ascend/atb -> source "
         "/home/HwHiAiUser/Ascend/atb/set_env.sh --cxx_abi=1"),
    ])  # fmt: skip
    assert report.is_ok  # all that fails is vLLM's
    assert (
        f"OK: CANN found: 8.0.0 at {TOOLKIT}/8.0.0, 7.0.0 at {TOOLKIT}/7.0.0 (latest)"
        in says(report, "cann.installed")
    )
    assert "strategy E" in says(report, "cann.staging")
    asks = "vllm 0.11.0 asks torch 2.8.0, vllm-ascend 0.11.0rc1 asks torch 2.7.1, found 2.7.1+cpu"
    assert asks in (
        says(report, "vllm.requirements")
    )
    assert "normal for vllm-ascend" in says(report, "vllm.requirements")
    assert "no root here; ckptfmt needs none; /usr/local/Ascend belongs to another" in says(
        report, "machine.user"
    )
    assert (
        "ATB at /home/HwHiAiUser/Ascend/atb (unpacked by hand); this torch has C++ ABI 1 -> "
        "source /home/HwHiAiUser/Ascend/atb/set_env.sh --cxx_abi=1" in says(report, "vllm.abi")
    )
    assert "for vllm-ascend: source /home/HwHiAiUser/Ascend/atb/set_env.sh" in says(
        report, "cann.environment"
    )
    assert "OK: needs 5.80 GB, available 9.10 GB (host and device share it): fits" in says(
        report, "memory.fit"
    )
    assert "this user is in HwHiAiUser" in says(report, "device.group")


def test_the_memory_is_that_of_the_device_behind_the_number(tmp_path: Path) -> None:
    table = table_910b("910B3", "910B3").replace("20701/ 65536", "65000/ 65536", 1)
    tree = server(tmp_path / "root").npu_smi(table)
    model = checkpoint_of(tmp_path / "model", 2 * GB)
    assert says(examined(tree, "npu:0", model), "memory.fit").startswith("FAIL: model 2.00 GB, ")
    tree.env(ASCEND_RT_VISIBLE_DEVICES="1")
    assert says(examined(tree, "npu:0", model), "memory.fit").startswith("OK: model 2.00 GB, ")


def test_a_model_too_large_for_the_board(tmp_path: Path) -> None:
    tree = board(tmp_path / "root")
    report = examined(tree, checkpoint=checkpoint_of(tmp_path / "7b", 15 * GB))
    assert "FAIL: needs 15.00 GB, available 9.10 GB (host and device share it): does not fit" in (
        says(report, "memory.fit")
    )
    assert not report.is_ok


# ---- what else goes wrong with an NPU ----


def two_versions(tree: Tree) -> None:
    """set_env.sh, and then variables set by hand."""
    tree.cann("8.0.0").cann("7.0.0").latest("7.0.0").torch("2.4.0", "2.4.0.post2")
    tree.env(ASCEND_HOME_PATH=f"{TOOLKIT}/latest", ASCEND_TOOLKIT_HOME=f"{TOOLKIT}/8.0.0")
    tree.env(ASCEND_OPP_PATH=f"{TOOLKIT}/8.0.0/opp")
    tree.on_linker_path(f"{TOOLKIT}/8.0.0/lib64", f"{ASCEND}/driver/lib64/driver")


def no_driver(tree: Tree) -> None:
    tree.remove("/etc/ascend_install.info", f"{ASCEND}/driver/version.info")
    tree.remove(f"{ASCEND}/driver/lib64/driver/libascend_hal.so")
    for folder in ("lib64/driver", "lib64"):
        tree.path(f"{ASCEND}/driver/{folder}").rmdir()
    tree.npu_smi("dcmi module initialize failed. ret is -8005\n")
    no_nodes(tree)


def no_nodes(tree: Tree) -> None:
    """A container that was given the driver's folder and no devices."""
    tree.remove("/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")


def container(tree: Tree) -> None:
    no_nodes(tree)
    tree.npu_smi("dcmi module initialize failed. ret is -8005\n").file("/etc/group", "root:x:0:\n")
    tree.host(uid=1001, groups=[1001]).file("/etc/group", "root:x:0:\n")
    tree.file("/proc/self/status", "Uid:\t1001\t1001\t1001\t1001\nSeccomp:\t2\n")


def stub(tree: Tree) -> None:
    folder = f"{TOOLKIT}/8.3.RC1/aarch64-linux/devlib"
    tree.file(f"{folder}/libascendcl.so").on_linker_path(folder, f"{ASCEND}/driver/lib64/driver")


def stub_behind(tree: Tree) -> None:
    folder = f"{TOOLKIT}/8.3.RC1/aarch64-linux/devlib"
    tree.on_linker_path(f"{TOOLKIT}/latest/lib64", folder, f"{ASCEND}/driver/lib64/driver")


def new_shell(tree: Tree) -> None:
    """Nothing has been sourced in it."""
    tree.env(ASCEND_HOME_PATH=None, ASCEND_TOOLKIT_HOME=None, ASCEND_OPP_PATH=None)
    tree.env(LD_LIBRARY_PATH=None)


def conda_shell(tree: Tree) -> None:
    """The same, with the packages in an environment of conda's that is not active."""
    new_shell(tree)
    tree.python("3.11", prefix="/opt/conda/envs/x").torch("2.8.0", "2.8.0", abi="")


def no_group(tree: Tree) -> None:
    tree.host(uid=1001, groups=[1001])
    tree.owners("660", 0, 1000, "/dev/davinci0", "/dev/davinci_manager")


def numpy_2(tree: Tree) -> None:
    tree.torch("2.4.0", "2.4.0.post2").packages(numpy="2.1.3", transformers="4.44.0")
    tree.package("torchvision", "0.20.1", ["torch==2.5.1"])
    tree.cann("8.0.0").latest("8.0.0").remove(f"{TOOLKIT}/8.3.RC1/runtime/lib64/libascendcl.so")
    tree.driver("24.1.rc3", "C19")


CASES: dict[str, tuple[Callable[[Tree], object], list[Expected]]] = {
    "two versions": (two_versions, [
        ("WARN", "cann.mixed", "libascendcl comes from 8.0.0, ASCEND_HOME_PATH names "
         f"{TOOLKIT}/latest -> 7.0.0 -> source one set_env.sh only, in a new shell: source "
         f"{TOOLKIT}/set_env.sh"),
    ]),
    "no driver": (no_driver, [
        ("FAIL", "driver.installed", "/usr/local/Ascend/driver"),
        ("FAIL", "device.nodes", "/dev/davinci0 (or another number), /dev/davinci_manager"),
        ("FAIL", "device.smi", "no chip: dcmi module initialize failed. ret is -8005"),
    ]),
    "container": (container, [
        ("FAIL", "device.nodes", "docker run --device=/dev/davinci0 --device=/dev/davinci_manager"),
        ("WARN", "device.group", "there is no group HwHiAiUser"),
        ("FAIL", "device.smi", "ret is -8005"),
    ]),
    "stub": (stub, [
        ("FAIL", "cann.library", "is a stub to compile against: every call to it fails with code "
         "100039"),
        ("WARN", "cann.stubs", "devlib"),
    ]),
    "stub behind": (stub_behind, [("WARN", "cann.stubs", "only there to compile against")]),
    "new shell": (new_shell, [
        ("WARN", "cann.environment", f"-> source {TOOLKIT}/set_env.sh"),
        ("FAIL", "driver.library", "libascend_hal.so is not found by the linker -> export "
         f"LD_LIBRARY_PATH={ASCEND}/driver/lib64/common:{ASCEND}/driver/lib64/driver"),
    ]),
    "new shell of conda": (conda_shell, [
        ("WARN", "cann.environment",
         f"-> conda activate <environment>; source {TOOLKIT}/set_env.sh"),
        ("FAIL", "driver.library", "ldconfig"),
    ]),
    "not in the group": (no_group, [
        ("FAIL", "device.nodes", "this user may not use /dev/davinci0, /dev/davinci_manager (the "
         "runtime says 207006); they belong to group HwHiAiUser -> sudo usermod -aG HwHiAiUser"),
    ]),
    "numpy 2": (numpy_2, [
        ("WARN", "python.numpy", 'numpy 2.1.3 with torch_npu 2.4.0.post2; known trouble: it was '
         'built for numpy 1 -> pip install "numpy<2"'),
        ("WARN", "python.torchvision", "torchvision 0.20.1 wants torch==2.5.1, found 2.4.0; "
         "ckptfmt does not need torchvision"),
    ]),
    "no CANN": (
        lambda t: t.env(ASCEND_HOME_PATH=None, ASCEND_TOOLKIT_HOME=None, ASCEND_OPP_PATH=None)
        .path(TOOLKIT).rename(t.path("/elsewhere")), [
        ("FAIL", "cann.installed", "no CANN is found"),
        ("FAIL", "cann.library", "libascendcl.so is not found; looked in libascendcl.so, "),
    ]),
    "old CANN": (lambda t: t.file(f"{TOOLKIT}/latest/version.cfg", "")
                 .file(f"{TOOLKIT}/8.3.RC1/aarch64-linux/ascend_toolkit_install.info",
                       "version=6.3.RC2\n"), [
        ("FAIL", "torch.cann", "this is 6.3.RC2 -> install CANN 8.3.RC1"),
        ("FAIL", "cann.library", "ckptfmt needs CANN 7.0 or newer"),
    ]),
    "newer CANN": (lambda t: t.torch("2.6.0", "2.6.0"), [
        ("WARN", "torch.cann", "torch_npu 2.6.0 is made for CANN 8.2.RC1; this is 8.3.RC1, which "
         "is newer -> torch 2.8.0 + torch_npu 2.8.0, or CANN 8.2.RC1"),
    ]),
    "2.8.0 with 7.0.0": (lambda t: t.cann("7.0.0").sourced(f"{TOOLKIT}/7.0.0"), [
        ("FAIL", "torch.cann", "torch_npu 2.8.0 is made for CANN 8.3.RC1; this is 7.0.0 -> torch "
         "2.1.0 + torch_npu 2.1.0"),
        ("WARN", "driver.cann", "driver 25.3.rc1 with CANN 7.0.0: the driver goes with"),
    ]),
    "wrong OPP": (lambda t: t.env(ASCEND_OPP_PATH="/opt/opp"), [
        ("WARN", "cann.mixed", "ASCEND_OPP_PATH names /opt/opp, which is no CANN"),
        ("FAIL", "cann.opp", "the runtime refuses it with code 148049"),
    ]),
    "torch_npu of another torch": (lambda t: t.packages(torch="2.7.1"), [
        ("FAIL", "torch.npu", "torch_npu 2.8.0 is made for torch 2.8.0, found 2.7.1 -> pip install "
         "torch==2.8.0"),
    ]),
    "torch for CUDA": (lambda t: t.packages(torch="2.8.0+cu128"), [
        ("FAIL", "torch.npu", "is built for CUDA, which torch_npu refuses"),
    ]),
    "no torch_npu": (lambda t: t.uninstall("torch_npu"), [
        ("FAIL", "torch.npu", "no torch_npu, which npu:0 needs -> pip install torch-npu==2.8.0"),
    ]),
    "Python too new": (lambda t: t.python("3.14", prefix="/new").torch("2.8.0", "2.8.0", ""), [
        ("FAIL", "torch.python", "torch_npu 2.8.0 is made for Python 3.9 to 3.13; this is 3.14"),
    ]),
    "firmware": (lambda t: t.driver("25.3.rc1", "C23", "6.4.12.1.241"), [
        ("WARN", "driver.firmware", "firmware 6.4.12.1.241; driver 25.3.rc1 goes with "
         "[7.0.0,7.9.99]"),
    ]),
    "driver of another time": (lambda t: t.driver("23.0.rc2", "C13"), [
        ("WARN", "driver.cann", "driver 23.0.rc2 with CANN 8.3.RC1: the driver goes with "),
    ]),
    "spaces in the list": (lambda t: t.env(ASCEND_RT_VISIBLE_DEVICES="0, 1"), [
        ("WARN", "device.visible", "'0, 1' is read as '0'"),
    ]),
    "nothing visible": (lambda t: t.env(ASCEND_RT_VISIBLE_DEVICES=""), [
        ("FAIL", "device.visible", "'' leaves no npu:0"),
    ]),
    "a chip with an alarm": (lambda t: t.npu_smi(table_910b("910B4", health="Warning")), [
        ("WARN", "device.smi", "Health Warning"),
    ]),
    "a broken chip": (lambda t: t.npu_smi(table_910b("910B4", health="Critical")), [
        ("FAIL", "device.smi", "Health Critical"),
    ]),
    "log level": (lambda t: t.env(ASCEND_GLOBAL_LOG_LEVEL="DEBUG"), [
        ("WARN", "device.log", "ASCEND_GLOBAL_LOG_LEVEL is 'DEBUG'"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_an_npu_is_all_that_is_told(name: str, tmp_path: Path) -> None:
    change, expected = CASES[name]
    tree = old_layout(tmp_path)
    change(tree)
    compare(examined(tree, "npu:0"), expected)


def test_the_linker_and_other_places_are_what_the_library_is_looked_for_in(tmp_path: Path) -> None:
    tree = old_layout(tmp_path)
    new_shell(tree)
    tree.file("/etc/ld.so.conf", "include ld.so.conf.d/*.conf\n")
    tree.file("/etc/ld.so.conf.d/ascend.conf", f"# of the driver\n{ASCEND}/driver/lib64/driver\n")
    report = examined(tree)
    compare(report, [("WARN", "cann.environment", f"source {TOOLKIT}/set_env.sh")])
    assert f"OK: CANN 8.3.RC1 at {TOOLKIT}/8.3.RC1: {TOOLKIT}/latest/lib64" in says(
        report, "cann.library"
    )
    tree.env(CKPTFMT_ACL_LIBRARY=f"{TOOLKIT}/8.3.RC1/lib64")
    compare(examined(tree), [])


def test_every_installation_is_found_wherever_it_is(tmp_path: Path) -> None:
    tree = old_layout(tmp_path).cann_85().cann("8.1.RC1", base="/root/Ascend/ascend-toolkit")
    tree.cann("7.0.0", base=f"{ASCEND}/nnrt").latest("7.0.0", base=f"{ASCEND}/nnrt")
    tree.cann("9.1.0", base="/opt/cann").env(ASCEND_TOOLKIT_LATEST_HOME="/opt/cann/9.1.0")
    report = examined(tree)
    compare(report, [
        ("WARN", "cann.mixed", "libascendcl comes from 8.3.RC1, ASCEND_TOOLKIT_LATEST_HOME names "
         "/opt/cann/9.1.0 -> 9.1.0"),
    ])  # fmt: skip
    for found in (
        f"8.3.RC1 at {TOOLKIT}/8.3.RC1 (latest)", f"8.5.0 at {ASCEND}/cann-8.5.0 (latest)",
        "8.1.RC1 at /root/Ascend/ascend-toolkit/8.1.RC1",
        f"7.0.0 at {ASCEND}/nnrt/7.0.0 (latest)", "9.1.0 at /opt/cann/9.1.0",
    ):  # fmt: skip
        assert found in says(report, "cann.installed")


def test_a_container_without_cann_s_own_folders_still_tells_versions(tmp_path: Path) -> None:
    """Only version.info of packages is left, with inner versions."""
    tree = old_layout(tmp_path).torch("2.4.0", "2.4.0.post2").driver("24.1.rc3", "C19")
    home = f"{TOOLKIT}/8.3.RC1"
    tree.remove(f"{home}/aarch64-linux/ascend_toolkit_install.info")
    tree.remove(f"{TOOLKIT}/latest/version.cfg")
    for package in ("runtime", "opp"):
        tree.file(f"{home}/{package}/version.info", "Version=7.6.0.1.220\n")
    report = examined(tree)
    compare(report, [])
    assert f"CANN 8.0.0 at {home}; strategy C" in says(report, "cann.staging")


# ---- vLLM ----

VLLM_CASES: dict[str, tuple[Callable[[Tree], object], list[Expected]]] = {
    "left out": (lambda t: t.env(VLLM_PLUGINS="ascend"), [
        ("FAIL", "vllm.plugin", "VLLM_PLUGINS=ascend leaves ckptfmt out -> export "
         "VLLM_PLUGINS=ascend,ckptfmt"),
    ]),
    "no plugin": (lambda t: t.package("ckptfmt", VERSION), [
        ("WARN", "vllm.plugin", "no entry point in vllm.general_plugins"),
    ]),
    "no NNAL": (lambda t: (t.path(f"{ASCEND}/nnal").rename(t.path("/elsewhere"))), [
        ("FAIL", "vllm.atb", "libatb.so not found, and no NNAL -> install NNAL 8.5.0"),
    ]),
    "NNAL in another shell": (
        lambda t: t.env(ATB_HOME_PATH=None).sourced(f"{ASCEND}/cann"), [
        ("FAIL", "vllm.atb", f"Found at {ASCEND}/nnal/atb -> source {ASCEND}/nnal/atb/set_env.sh "
         "--cxx_abi=1"),
    ]),
    "ABI": (lambda t: t.atb_sourced("0"), [
        ("WARN", "vllm.abi", "this torch has C++ ABI 1, ATB_HOME_PATH is of 0 -> source"),
    ]),
    "NNAL of another CANN": (
        lambda t: (t.path(f"{ASCEND}/nnal").rename(t.path("/elsewhere")), t.nnal("8.3.RC1")), [
        ("WARN", "vllm.nnal", "NNAL 8.3.RC1 with CANN 8.5.0"),
    ]),
    "another torch": (lambda t: t.torch("2.10.0", "2.10.0.post2", abi=""), [
        ("WARN", "python.torchvision", "wants torch==2.9.0, found 2.10.0"),
        ("FAIL", "torch.cann", "torch_npu 2.10.0.post2 is made for CANN 9.0.0; this is 8.5.0"),
        ("FAIL", "vllm.row", "wants torch 2.9.0, found 2.10.0"),
        ("FAIL", "vllm.row", "wants torch-npu 2.9.0, found 2.10.0.post2"),
        ("FAIL", "vllm.requirements", "vllm-ascend 0.14.0rc1 asks torch 2.9.0, found 2.10.0"),
    ]),
    "fixes of the row": (lambda t: t.package("vllm_ascend", "0.13.0rc3", ["torch==2.8.0"])
                         .torch("2.8.0", "2.8.0.post1", abi="").uninstall("torchvision"), [
        ("WARN", "vllm.row", "wants CANN 8.5.1, found 8.5.0"),
        ("WARN", "vllm.row", "wants torch-npu 2.8.0.post2, found 2.8.0.post1 -> pip install "
         "torch-npu==2.8.0.post2"),
    ]),
    "no kernels": (lambda t: t.npu_smi(table_910b("310P3")), [
        ("FAIL", "vllm.chip", "no kernels for Ascend310P3 (it would say: No supported Ops kernel"),
    ]),
    "a board": (lambda t: t.npu_smi(TABLE_310B.replace("Alarm", "OK   ")), [
        ("FAIL", "vllm.chip", "vllm-ascend 0.14.0rc1 lists no support for Ascend310B"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", VLLM_CASES)
def test_what_is_wrong_for_vllm_is_all_that_is_told(name: str, tmp_path: Path) -> None:
    change, expected = VLLM_CASES[name]
    tree = server(tmp_path)
    change(tree)
    report = examined(tree, "npu:0")
    compare(report, expected)
    whose = {f.concerns for f in wrong(report) if f.check.startswith("vllm.")}
    assert whose == {"vllm"}
    assert report.is_ok is (name != "another torch")


def test_every_column_of_a_row_is_told(tmp_path: Path) -> None:
    tree = server(tmp_path).package("vllm_ascend", "0.13.0rc1", ["torch==2.9.0"])
    tree.path(tree.site).parent.rename(tree.path("/opt/env/lib/python3.13"))
    report = examined(tree, "npu:0")
    assert [line.partition(" ->")[0] for line in says(report, "vllm.row").splitlines()] == [
        "FAIL: vllm-ascend 0.13.0rc1 wants Python 3.10 to below 3.12, found 3.13",
        "FAIL: vllm-ascend 0.13.0rc1 wants CANN 8.3.RC2, found 8.5.0",
        "FAIL: vllm-ascend 0.13.0rc1 wants torch 2.8.0, found 2.9.0",
        "FAIL: vllm-ascend 0.13.0rc1 wants torch-npu 2.8.0, found 2.9.0",
    ]


# ---- Python and the package ----


def source_folder(tree: Tree, folder: str = "/home/me/ckptfmt") -> Tree:
    """A clone, in which a person stands."""
    return (
        tree.files(f"{folder}/pyproject.toml", f"{folder}/ckptfmt/__init__.py",
                   f"{folder}/ckptfmt/_core.pyx")
        .file(f"{folder}/ckptfmt/version.py", f'VERSION = "{VERSION}"\n').env(PWD=folder)
    )  # fmt: skip


def stale(tree: Tree) -> None:
    """Built once, changed since."""
    source_folder(tree).extension("/home/me/ckptfmt/ckptfmt", "312", "x86_64", "0.0.9")


def edited(tree: Tree) -> None:
    source_folder(tree).extension("/home/me/ckptfmt/ckptfmt", "312", "x86_64")
    os.utime(tree.path("/home/me/ckptfmt/ckptfmt/_core.pyx"), (2e9, 2e9))


PYTHON_CASES: dict[str, tuple[Callable[[Tree], object], list[Expected]]] = {
    "source folder": (source_folder, [
        ("FAIL", "python.package", "ckptfmt is imported from the source folder /home/me/ckptfmt, "
         "which has no built _core (ERR99999 UNKNOWN in what is printed is no other trouble: "
         "torch_npu reports any uncaught exception with it) -> leave the folder, or pip install"),
        ("FAIL", "python.extension", "/home/me/ckptfmt/ckptfmt has no compiled _core"),
    ]),
    "stale": (stale, [
        ("FAIL", "python.extension", f"was built for ckptfmt 0.0.9, the package is {VERSION}"),
    ]),
    "edited": (edited, [("WARN", "python.extension", "is older than _core.pyx")]),
    "another Python's": (lambda t: (
        t.remove(f"{t.site}/ckptfmt/_core.cpython-312-x86_64-linux-gnu.so"),
        t.extension(f"{t.site}/ckptfmt", "310", "x86_64")), [
        ("FAIL", "python.extension", "this Python needs _core.cpython-312-x86_64-linux-gnu.so"),
    ]),
    "another version's files": (lambda t: t.package("ckptfmt", "0.0.9"), [
        ("WARN", "python.package", "what is installed as ckptfmt is 0.0.9"),
    ]),
    "an old numpy": (lambda t: t.packages(numpy="1.23.5"), [
        ("FAIL", "python.requirements", "numpy>=1.24 is wanted, found 1.23.5"),
    ]),
    "no package": (lambda t: t.remove(f"{t.site}/ckptfmt/__init__.py"), [
        ("FAIL", "python.package", "there is no package ckptfmt -> pip install ckptfmt"),
    ]),
    "an old torch": (lambda t: t.packages(torch="2.0.1"), [
        ("WARN", "torch.version", "torch 2.0.1"),
    ]),
    "no io_uring": (lambda t: t.file("/proc/sys/kernel/io_uring_disabled", "2\n"), [
        ("WARN", "machine.io_uring", "kernel.io_uring_disabled is 2 -> sudo sysctl"),
    ]),
    "an old kernel": (lambda t: t.host("4.19.90-2003", "x86_64"), [
        ("WARN", "machine.io_uring", "Linux 4.19.90-2003 has none"),
    ]),
    "another processor": (lambda t: t.host(arch="riscv64"), [
        ("FAIL", "machine.kernel", "this processor is riscv64"),
        ("FAIL", "python.extension", "this Python needs"),
    ]),
    "pages too large": (lambda t: t.file("/ckptfmt-doctor/getconf PAGESIZE.txt", f"{4 << 20}\n"), [
        ("FAIL", "machine.page_size", "pages of 4096 KiB"),
    ]),
    "an old Python": (lambda t: t.python("3.9", "x86_64", "/old").packages(torch="2.1.0"), [
        ("FAIL", "python.version", "Python 3.9"),
    ]),
    "numpy 2 with an old torch": (lambda t: t.packages(torch="2.1.2", numpy="2.0.0"), [
        ("WARN", "python.numpy", "numpy 2.0.0 with torch 2.1.2; known trouble"),
    ]),
    "a proxy": (lambda t: t.env(HTTPS_PROXY="http://user:secret@proxy"), [
        ("WARN", "machine.proxy", "https_proxy is set and no_proxy lacks localhost and 127.0.0.1"),
    ]),
    "no huge pages": (lambda t: t.file(
        "/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"), [
        ("WARN", "machine.huge_pages", "transparent: never; 0 reserved pages free -> echo madvise"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", PYTHON_CASES)
def test_what_is_wrong_with_python_or_the_machine_is_all_that_is_told(
    name: str, tmp_path: Path
) -> None:
    change, expected = PYTHON_CASES[name]
    tree = processor(tmp_path)
    change(tree)
    compare(examined(tree), expected)


def test_root_or_a_group_may_use_io_uring_where_others_may_not(tmp_path: Path) -> None:
    tree = processor(tmp_path).file("/proc/sys/kernel/io_uring_disabled", "1\n")
    compare(examined(tree), [])
    tree.host(arch="x86_64", uid=1000, groups=[1000])
    compare(examined(tree), [("WARN", "machine.io_uring", "io_uring_disabled is 1")])
    tree.file("/proc/sys/kernel/io_uring_group", "1000\n")
    compare(examined(tree), [])


def test_a_proxy_that_does_not_catch_this_machine_is_none(tmp_path: Path) -> None:
    tree = processor(tmp_path).env(http_proxy="http://user:secret@proxy", NO_PROXY="a,127.0.0.1")
    report = examined(tree.env(no_proxy="localhost, 127.0.0.1"))
    compare(report, [])
    assert "secret" not in str(report.to_dict())
    compare(examined(tree.env(no_proxy="*")), [])


def test_limits_of_the_container_count(tmp_path: Path) -> None:
    tree = processor(tmp_path / "root").file("/sys/fs/cgroup/memory.max", f"{4 * GB}\n")
    tree.file("/sys/fs/cgroup/memory.current", f"{3 * GB}\n")
    tree.file("/sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {GB}\nactive_file 0\n")
    model = checkpoint_of(tmp_path / "model", 3 * GB)
    report = examined(tree, checkpoint=model)
    compare(report, [
        ("FAIL", "memory.fit", "needs 3.00 GB, available 2.00 GB: does not fit"),
    ])  # fmt: skip
    assert "2.00 GB available, by the limit of the container" in says(report, "memory.host")
    tree.file("/sys/fs/cgroup/memory.max", f"{5 * GB + (200 << 20)}\n")
    compare(examined(tree, checkpoint=model), [
        ("WARN", "memory.fit", "fits, with 209.72 MB to spare"),
    ])  # fmt: skip
    tree.file("/sys/fs/cgroup/memory.max", "max\n")
    compare(examined(tree, checkpoint=model), [])


# ---- GPUs ----

GPU_CASES: dict[str, tuple[Callable[[Tree], object], list[Expected]]] = {
    "an old driver": (lambda t: t.remove("/sys/module/nvidia/version").file(
        "/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.01"
        "  Tue Sep 17\n"), [
        ("FAIL", "cuda.torch", "is built for CUDA 13.0, which needs driver 580, found 535.216.01"),
    ]),
    "no driver": (lambda t: t.remove("/sys/module/nvidia/version", "/dev/nvidia0",
                                     "/dev/nvidiactl", "/dev/nvidia-uvm",
                                     "/usr/lib/x86_64-linux-gnu/libcuda.so.1"), [
        ("FAIL", "cuda.driver", "no driver"),
        ("FAIL", "cuda.nodes", "docker run --gpus all"),
        ("FAIL", "cuda.library", "libcuda.so.1 is not found"),
    ]),
    "refused": (lambda t: t.host(arch="x86_64", uid=7).owners("600", 0, 0, "/dev/nvidia0"), [
        ("FAIL", "cuda.nodes", "this user may not use /dev/nvidia0"),
    ]),
    "torch without": (lambda t: t.packages(torch="2.11.0+cpu").file(
        f"{t.site}/torch/version.py", "cuda: Optional[str] = None\n"), [
        ("FAIL", "cuda.torch", "torch 2.11.0+cpu is built without CUDA"),
    ]),
    "all hidden": (lambda t: t.env(CUDA_VISIBLE_DEVICES="-1"), [
        ("FAIL", "cuda.visible", "'-1' hides all devices"),
    ]),
    "one hidden": (lambda t: t.env(CUDA_VISIBLE_DEVICES="0,-1,1"), [
        ("WARN", "cuda.visible", "what follows the entry that is none is hidden"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", GPU_CASES)
def test_what_is_wrong_with_a_gpu_is_all_that_is_told(name: str, tmp_path: Path) -> None:
    change, expected = GPU_CASES[name]
    tree = gpu(tmp_path)
    change(tree)
    compare(examined(tree, "cuda:0"), expected)


# ---- an empty tree, and one that lies ----


def test_an_empty_tree_is_told_from_a_bad_one(tmp_path: Path) -> None:
    report = examined(Tree(tmp_path))
    compare(report, [
        ("WARN", "machine.huge_pages", "not there"),
        ("FAIL", "python.package", "there is no package ckptfmt"),
    ])  # fmt: skip
    assert report.device == "cpu"


def test_a_check_that_cannot_be_made_is_a_finding(tmp_path: Path) -> None:
    tree = processor(tmp_path)
    tree.link("/proc/meminfo", "/proc/itself").link("/proc/itself", "/proc/meminfo")
    found = wrong(examined(tree))
    assert {f.check for f in found} == {"machine.huge_pages", "memory.host"}
    for finding in found:
        assert finding.level == "WARN"
        assert finding.found == (
            "the check could not be made: /proc/meminfo: Too many levels of symbolic links"
        )


def test_nonsense_in_files_ends_nothing(tmp_path: Path) -> None:
    tree = server(tmp_path)
    for name in (
        f"{ASCEND}/cann-8.5.0/aarch64-linux/ascend_toolkit_install.info",
        f"{ASCEND}/driver/version.info", "/ckptfmt-doctor/npu-smi info.txt",
        "/proc/self/status", "/proc/meminfo", "/proc/self/limits",
        "/proc/sys/kernel/osrelease", "/etc/group",
    ):  # fmt: skip
        tree.path(name).write_bytes(bytes(range(256)) * 9 + b"\n|=: Version=?.x\n")
    for folder in tree.path(tree.site).glob("*.dist-info"):
        (folder / "METADATA").write_text(f"Version: ???\nRequires-Dist: =={folder}\n")
    report = examined(tree, "npu:0")
    assert {f.check for f in report.findings} >= {"machine.kernel", "vllm.row", "probe.link"}
