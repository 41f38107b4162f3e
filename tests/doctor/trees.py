"""Trees of files that describe machines, as people have reported them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ckptfmt.version import VERSION

ASCEND = "/usr/local/Ascend"
TOOLKIT = f"{ASCEND}/ascend-toolkit"
GIB = 1 << 20  # in kB
#: What each release calls itself towards drivers.
INNER = {
    "7.0.0": "C15", "8.0.0": "C20", "8.1.RC1": "C21", "8.3.RC1": "C23", "8.5.0": "C25",
    "9.1.0": "C27",
}  # fmt: skip


class Tree:
    """A tree under way; every method returns it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.variables: dict[str, str] = {"HOME": "/root", "PATH": "/usr/bin:/bin"}
        self.site = ""

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def file(self, name: str, text: str = "") -> Tree:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self

    def files(self, *names: str) -> Tree:
        for name in names:
            self.file(name)
        return self

    def link(self, name: str, target: str) -> Tree:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        return self

    def remove(self, *names: str) -> Tree:
        for name in names:
            self.path(name).unlink()
        return self

    def env(self, **variables: str | None) -> Tree:
        for name, value in variables.items():
            self.variables.pop(name, None)
            if value is not None:
                self.variables[name] = value
        text = "\0".join(f"{name}={value}" for name, value in self.variables.items())
        return self.file("/proc/self/environ", text + "\0")

    def on_linker_path(self, *folders: str) -> Tree:
        return self.env(LD_LIBRARY_PATH=":".join(folders))

    # ---- the machine ----

    def host(
        self, kernel: str = "6.6.0-72.0.0.76.oe2403.aarch64", arch: str = "aarch64",
        gib: float = 512, uid: int = 0, groups: Iterable[int] = (), memlock: str = "unlimited",
    ) -> Tree:  # fmt: skip
        kib = int(gib * GIB)
        ids = "\t".join([str(uid)] * 4)
        return (
            self.file("/proc/sys/kernel/osrelease", f"{kernel}\n")
            .file("/proc/sys/kernel/arch", f"{arch}\n")
            .file("/proc/meminfo", f"MemTotal:  {2 * kib} kB\nMemAvailable:  {kib} kB\n"
                  "HugePages_Total:  0\nHugePages_Free:  0\nHugepagesize:  2048 kB\n")
            .file("/proc/self/limits", "Limit                     Soft Limit           Hard Limit\n"
                  f"Max locked memory         {memlock}            unlimited            bytes\n")
            .file("/proc/self/status", f"Name:\tpython\nUid:\t{ids}\nGid:\t{ids}\n"
                  f"Groups:\t{' '.join(map(str, groups))}\nSeccomp:\t0\n")
            .file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
            .file("/ckptfmt-doctor/getconf PAGESIZE.txt", "4096\n")
            .file("/etc/group", "root:x:0:\nHwHiAiUser:x:1000:\n")
            .env()
        )  # fmt: skip

    def python(
        self, version: str = "3.10", arch: str = "aarch64", prefix: str = "/opt/env"
    ) -> Tree:
        """An environment with ckptfmt in it, as a wheel leaves it."""
        self.site = f"{prefix}/lib/python{version}/site-packages"
        number = version.replace(".", "")
        return (
            self.env(VIRTUAL_ENV=prefix)
            .file(f"{self.site}/ckptfmt/__init__.py")
            .file(f"{self.site}/ckptfmt/version.py", f'VERSION = "{VERSION}"\n')
            .extension(f"{self.site}/ckptfmt", number, arch)
            .package("ckptfmt", VERSION, ["numpy>=1.24", "click>=8.1"])
            .package("numpy", "1.26.4")
            .package("click", "8.3.1")
        )

    def extension(self, folder: str, number: str, arch: str, built_for: str = VERSION) -> Tree:
        return self.file(
            f"{folder}/_core.cpython-{number}-{arch}-linux-gnu.so",
            f"\x7fELF\0\0ckptfmt._core built for {built_for}\0\0",
        )

    def package(
        self, name: str, version: str, requires: Iterable[str] = (), plugins: str = ""
    ) -> Tree:
        """An installed package; in the place of another version of it."""
        self.uninstall(name)
        folder = f"{self.site}/{name}-{version}.dist-info"
        if plugins:
            self.file(f"{folder}/entry_points.txt", f"[vllm.general_plugins]\n{plugins}\n")
        lines = [f"Requires-Dist: {one}\n" for one in requires]
        return self.file(
            f"{folder}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}",
        )

    def uninstall(self, name: str) -> Tree:
        for old in self.path(self.site).glob(f"{name}-*.dist-info"):
            shutil.rmtree(old)
        return self

    def packages(self, **versions: str) -> Tree:
        for name, version in versions.items():
            self.package(name, version)
        return self

    def torch(self, version: str, torch_npu: str, abi: str = "0") -> Tree:
        flags = f'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI={abi}")\n' if abi else "\n"
        return (
            self.packages(torch=version, torch_npu=torch_npu)
            .file(f"{self.site}/torch/share/cmake/Torch/TorchConfig.cmake", flags)
            .file(f"{self.site}/torch/version.py", "cuda: Optional[str] = None\n")
        )

    # ---- Ascend ----

    def cann(self, version: str, arch: str = "aarch64", base: str = TOOLKIT) -> Tree:
        """One release as installers before 8.5 leave it."""
        home = f"{base}/{version}"
        code = INNER[version]
        self.file(f"{base}/set_env.sh")
        self.file(f"{home}/{arch}-linux/ascend_toolkit_install.info",
                  f"package_name=Ascend-cann-toolkit\nversion={version}\n"
                  f"innerversion=V100R001{code}SPC001B238\n"
                  f"compatible_version=[V100R001C19],[V100R001{code}]\narch={arch}\n")  # fmt: skip
        self.file(f"{home}/runtime/version.info", f"Version=7.7.0.1.238\nversion_dir={version}\n")
        self.file(f"{home}/opp/version.info", f"version_dir={version}\n")
        self.file(f"{home}/opp/built-in/op_impl/ai_core/tbe/kernel/ascend910b/x.json")
        self.file(f"{home}/runtime/lib64/libascendcl.so", "the library")
        return self.link(f"{home}/lib64", "runtime/lib64")

    def latest(self, version: str, base: str = TOOLKIT) -> Tree:
        """A folder of links, with a file that tells the version."""
        for name in ("runtime", "opp", "lib64", "aarch64-linux"):
            self.link(f"{base}/latest/{name}", f"../{version}/{name}")
        inner = {"7.0.0": "7.1.0.3.220", "8.0.0": "7.6.0.1.220"}.get(version, "7.7.0.1.238")
        return self.file(
            f"{base}/latest/version.cfg",
            f"# version\nruntime_running_version=[{inner}:{version}]\n",
        )

    def cann_85(self, version: str = "8.5.0") -> Tree:
        """One release as installers leave it from 8.5 on: a folder beside a link."""
        home = f"{ASCEND}/cann-{version}"
        self.file(f"{home}/set_env.sh")
        self.file(f"{home}/share/info/runtime/version.info", f"Version={version}.2.220\n")
        self.file(f"{home}/aarch64-linux/ascend_toolkit_install.info",
                  f"package_name=Ascend-cann-toolkit\nversion={version}\n"
                  f"innerversion=V100R001{INNER[version]}SPC001B212\n")  # fmt: skip
        self.file(f"{home}/opp/built-in/op_impl/ai_core/tbe/kernel/ascend910b/x.json")
        self.file(f"{home}/aarch64-linux/lib64/libascendcl.so", "the library")
        self.link(f"{home}/lib64", "aarch64-linux/lib64")
        return self.link(f"{ASCEND}/cann", f"{ASCEND}/cann-{version}")  # from the root of the tree

    def sourced(self, home: str, *more: str) -> Tree:
        """The variables as set_env.sh sets them."""
        return self.env(
            ASCEND_HOME_PATH=home, ASCEND_TOOLKIT_HOME=home, ASCEND_OPP_PATH=f"{home}/opp",
        ).on_linker_path(f"{home}/lib64", *more, *DRIVER_FOLDERS)  # fmt: skip

    def driver(
        self, version: str = "25.5.0", code: str = "C25", firmware: str = "7.8.0.1.220",
        fits: str = "[7.0.0,7.9.99]",
    ) -> Tree:  # fmt: skip
        return (
            self.file("/etc/ascend_install.info", "UserName=HwHiAiUser\nUserGroup=HwHiAiUser\n"
                      f"Driver_Install_Path_Param={ASCEND}\nDriver_Install_For_All=no\n")
            .file(f"{ASCEND}/driver/version.info",
                  f"Version={version}\nInnerversion=V100R001{code}SPC002B212\n"
                  f"compatible_version=[V100R001C20],[V100R001{code}]\n"
                  f"compatible_version_fw={fits}\npackage_version={version}\n")
            .file(f"{ASCEND}/firmware/version.info", f"Version={firmware}\n")
            .files(*(f"{f}/libascend_hal.so" for f in DRIVER_FOLDERS[-1:]))
        )  # fmt: skip

    def nodes(self, count: int = 1) -> Tree:
        return self.files(
            "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc",
            *(f"/dev/davinci{n}" for n in range(count)),
        )  # fmt: skip

    def owners(self, mode: str, uid: int, gid: int, *names: str) -> Tree:
        path = self.path("/ckptfmt-doctor/owners.txt")
        before = path.read_text() if path.exists() else ""
        lines = "".join(f"{mode} {uid} {gid} {name}\n" for name in names)
        return self.file("/ckptfmt-doctor/owners.txt", before + lines)

    def npu_smi(self, text: str) -> Tree:
        return self.file("/ckptfmt-doctor/npu-smi info.txt", text)

    def nnal(self, version: str, base: str = f"{ASCEND}/nnal/atb") -> Tree:
        for abi in "01":
            self.file(f"{base}/{version}/atb/cxx_abi_{abi}/lib/libatb.so")
        return (
            self.file(f"{base}/set_env.sh")
            .file(f"{base}/{version}/version.info", f"    Ascend-cann-atb : {version}\n")
            .link(f"{base}/latest", version)
        )

    def atb_sourced(self, abi: str, base: str = f"{ASCEND}/nnal/atb") -> Tree:
        home = f"{base}/latest/atb/cxx_abi_{abi}"
        before = self.variables.get("LD_LIBRARY_PATH", "")
        return self.env(ATB_HOME_PATH=home, LD_LIBRARY_PATH=f"{home}/lib:{before}")


DRIVER_FOLDERS = (f"{ASCEND}/driver/lib64/common", f"{ASCEND}/driver/lib64/driver")


def table_910b(*names: str, health: str = "OK") -> str:
    """As npu-smi prints chips with HBM."""
    line = f"+{'=' * 27}+{'=' * 15}+{'=' * 46}+\n"
    thin = line.replace("=", "-")
    rows = "".join(
        f"| {n}     {name:<19} | {health:<13} | 88.6   51     0    / 0                        |\n"
        f"| 0                         | 0000:5A:00.0  | 0      0    / 0          20701/ 65536 |\n"
        f"{line}"
        for n, name in enumerate(names)
    )  # fmt: skip
    return (
        f"{thin}| npu-smi 25.5.0                   Version: 25.5.0                        |\n{thin}"
        "| NPU   Name                | Health        | Power(W) Temp(C) Hugepages-Usage(page)|\n"
        "| Chip                      | Bus-Id        | AICore(%) Memory-Usage(MB) HBM-Usage(MB)|\n"
        f"{line}{rows}{thin}"
        "| NPU     Chip              | Process id    | Process name       | Process memory(MB)|\n"
        f"{line}"
        "| 0       0                 | 499214        | python             | 26322             |\n"
        f"{line}"
    )


#: As npu-smi prints the board: no HBM, no bus, an alarm.
TABLE_310B = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                                   Version: 25.2.0                               |
+-------------------------------+-----------------+----------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)   Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                |
+===============================+=================+==============================================+
| 0       310B4                 | Alarm           | 0.0          57                15    / 15    |
| 0       0                     | NA              | 0            3628 / 15610                    |
+===============================+=================+==============================================+
"""


def server(root: Path) -> Tree:
    """A healthy server: CANN 8.5, two 910B3, vllm-ascend, all of versions that belong together."""
    return (
        Tree(root).host().python().torch("2.9.0", "2.9.0", abi="")
        .package("ckptfmt", VERSION, ["numpy>=1.24"], "ckptfmt = ckptfmt.vllm:register")
        .package("vllm", "0.14.1", ["torch==2.9.0"])
        .package("vllm_ascend", "0.14.0rc1", ["torch==2.9.0"])
        .packages(transformers="4.57.6", accelerate="1.12.0")
        .package("torchvision", "0.24.0", ["torch==2.9.0"])
        .cann_85().driver().nodes(2).npu_smi(table_910b("910B3", "910B3")).nnal("8.5.0")
        .sourced(f"{ASCEND}/cann").atb_sourced("1")
    )  # fmt: skip


def old_layout(root: Path) -> Tree:
    """A healthy server with CANN 8.3 as installers before 8.5 lay it out, and no vLLM."""
    return (
        Tree(root).host().python("3.11").torch("2.8.0+cpu", "2.8.0", abi="").cann("8.3.RC1")
        .latest("8.3.RC1").driver("25.3.rc1", "C23").nodes().npu_smi(table_910b("910B4"))
        .sourced(f"{TOOLKIT}/latest")
    )  # fmt: skip


def guide(root: Path) -> Tree:
    """The server of the deployment guide: CANN 8.0.0, patched vLLM 0.7.3, behind a proxy."""
    return (
        Tree(root).host("5.10.0-60.18.0.50.oe2203.aarch64").python(prefix="/root/miniconda/sllm")
        .env(VIRTUAL_ENV=None, CONDA_PREFIX="/root/miniconda/sllm",
             CONDA_DEFAULT_ENV="sllm-worker", ASCEND_RT_VISIBLE_DEVICES="0,1",
             http_proxy="http://proxy:8080", no_proxy="127.0.0.1")
        .torch("2.5.1", "2.5.1")
        .package("vllm", "0.7.3", ["torch==2.5.1"])
        .package("vllm_ascend", "0.7.3.post1", ["torch==2.5.1"])
        .package("torchvision", "0.20.1", ["torch==2.5.1"])
        .packages(transformers="4.49.0")
        .cann("8.0.0").latest("8.0.0").driver("24.1.rc3", "C19", "7.5.0.1.129", "[7.0.0,7.5.99]")
        .nodes(8).npu_smi(table_910b(*["910B2"] * 8)).nnal("8.1.RC1")
        .sourced(f"{TOOLKIT}/latest").atb_sourced("0")
    ).file(
        "/root/miniconda/sllm/lib/python3.10/site-packages/vllm/model_executor/model_loader/loader.py",
        "class ServerlessLLMLoader: ...  # LoadFormat.SERVERLESS_LLM\n",
    )  # fmt: skip


def board(root: Path) -> Tree:
    """The Orange Pi AI Pro: 310B4, 15 GB, no root, CANN 7.0.0 as latest and 8.0.0, ATB unpacked."""
    tree = (
        Tree(root).host("5.10.0+", gib=9.1 * 1e9 / 2**30, uid=1000, groups=[1000], memlock="65536")
        .env(HOME="/home/HwHiAiUser")
        .python(prefix="/home/HwHiAiUser/miniconda3/envs/qwen_onnx")
        .env(VIRTUAL_ENV=None, CONDA_DEFAULT_ENV="qwen_onnx",
             CONDA_PREFIX="/home/HwHiAiUser/miniconda3/envs/qwen_onnx")
        .torch("2.7.1+cpu", "2.7.1", abi="")
        .package("vllm", "0.11.0", ["torch==2.8.0"])
        .package("vllm_ascend", "0.11.0rc1", ["torch==2.7.1"])
        .packages(transformers="4.57.0")
        .cann("7.0.0").cann("8.0.0").latest("7.0.0")
        .driver("25.2.0", "C22").nodes().npu_smi(TABLE_310B)
        .sourced(f"{TOOLKIT}/8.0.0")
        .owners("660", 0, 1000, "/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm",
                "/dev/hisi_hdc")
        .owners("755", 0, 0, ASCEND)
    )  # fmt: skip
    home = "/home/HwHiAiUser/Ascend/atb"
    for abi in "01":
        tree.file(f"{home}/atb/cxx_abi_{abi}/lib/libatb.so")
    return tree.file(f"{home}/set_env.sh").file(
        f"{home}/version.info", "Ascend-cann-atb : 8.0.0\n"
    )


def processor(root: Path) -> Tree:
    """A machine with nothing but processors."""
    return Tree(root).host("6.8.0-60-generic", "x86_64", gib=32).python("3.12", "x86_64").packages(
        torch="2.13.0+cpu"
    )


def gpu(root: Path) -> Tree:
    """A machine with an NVIDIA GPU and a torch for it."""
    tree = (
        Tree(root).host("6.8.0-60-generic", "x86_64", gib=200).python("3.12", "x86_64")
        .packages(torch="2.11.0+cu130").files("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")
        .file("/sys/module/nvidia/version", "580.95.05\n")
        .file("/usr/lib/x86_64-linux-gnu/libcuda.so.1")
    )  # fmt: skip
    return tree.file(f"{tree.site}/torch/version.py", "cuda: Optional[str] = '13.0'\n")


def checkpoint_of(folder: Path, nbytes: int) -> Path:
    """A source folder whose one file is so large, and holds nothing."""
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(nbytes)
    return folder
