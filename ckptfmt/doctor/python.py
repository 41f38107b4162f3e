"""Checks of Python and of the installed package: what is imported, from where, and does it fit."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ckptfmt import version as version_module
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import base, is_in, numbers, required, requirement
from ckptfmt.doctor.versions import NUMPY2_TORCH, NUMPY2_TORCH_NPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case
    from ckptfmt.doctor.system import System

#: What the extension has in it of the version that it was built for.
BUILT_FOR = re.compile(rb"ckptfmt\._core built for ([0-9A-Za-z.+]+)")
#: Sources of the extensions.
SOURCES = (".pyx", ".pxd", ".c", ".h")
UNCAUGHT = (
    "(ERR99999 UNKNOWN in what is printed is no other trouble: torch_npu reports any uncaught "
    "exception with it)"
)


@check("python.version", "Python")
def version(case: Case) -> Iterator[Told]:
    """FAIL before 3.10."""
    found = case.system.python
    if not found:
        yield skip("no Python with packages is found")
    elif numbers(found) < (3, 10):
        yield fail(f"Python {found}", "ckptfmt needs Python 3.10 or newer")
    else:
        where = case.system.environment.get("CONDA_DEFAULT_ENV", "")
        yield ok(f"Python {found}" + (f", conda environment {where}" if where else ""))


@check("python.package", "from where ckptfmt is imported")
def package(case: Case) -> Iterator[Told]:
    """FAIL if it is a source folder without built extensions; WARN if the current folder is one,
    which hides the installed package, or if files are of another version than their metadata."""
    system = case.system
    folder = imported_from(system)
    if not folder:
        yield fail("there is no package ckptfmt", "pip install ckptfmt")
        return
    sources = os.path.dirname(folder)
    is_source = system.exists(f"{sources}/setup.py") or system.exists(f"{sources}/pyproject.toml")
    if is_source and not extensions(system, folder):
        yield fail(
            f"ckptfmt is imported from the source folder {sources}, which has no built _core "
            f"{UNCAUGHT}",
            "leave the folder, or pip install -e .",
        )
        return
    match = re.search(r'VERSION = "([^"]+)"', system.read(f"{folder}/version.py"))
    here, installed = match[1] if match else "unknown", system.version("ckptfmt")
    shadow = f"{system.folder}/ckptfmt"
    if (
        system.real(shadow) != system.real(folder)
        and system.exists(f"{shadow}/__init__.py")
        and not extensions(system, shadow)
    ):
        yield warn(
            f"{here}, from {folder}; Python that is started in {system.folder} imports the sources "
            f"there, which have no built _core {UNCAUGHT}",
            "leave the folder, or pip install -e .",
        )
    elif installed and base(installed) != base(here):
        yield warn(
            f"{folder} is {here}, and what is installed as ckptfmt is {installed}",
            "pip install --force-reinstall ckptfmt, or leave the source folder",
        )
    else:
        yield ok(f"{here}, from {folder}")


@check("python.extension", "the package's compiled modules")
def extension(case: Case) -> Iterator[Told]:
    """FAIL if they are missing, for another Python or processor, or built for another version;
    WARN if sources beside them are newer."""
    system = case.system
    folder = imported_from(system)
    if not folder:
        yield skip("there is no package ckptfmt")
        return
    built = extensions(system, folder)
    wanted = f"_core{system.extension_suffix}"
    if not built:
        yield fail(
            f"{folder} has no compiled _core {UNCAUGHT}",
            "pip install --force-reinstall ckptfmt; in a source folder: pip install -e .",
        )
    elif wanted not in built:
        yield fail(
            f"{folder} has {', '.join(built)}, and this Python needs {wanted}",
            "install ckptfmt with the Python that is used: python -m pip install ckptfmt",
        )
    else:
        yield _age_of(system, folder, wanted)


def _age_of(system: System, folder: str, name: str) -> Told:
    """Whether an extension is of the version, and of the sources, beside it."""
    mending = "remove build/, then pip install -e . (or python setup.py build_ext --inplace)"
    match = re.search(r'VERSION = "([^"]+)"', system.read(f"{folder}/version.py"))
    of_package = match[1] if match else ""
    stamp = BUILT_FOR.search(system.read_bytes(f"{folder}/{name}"))
    built_for = stamp[1].decode() if stamp else ""
    if built_for and of_package and built_for != of_package:
        return fail(
            f"_core was built for ckptfmt {built_for}, the package is {of_package}", mending
        )
    if os.path.basename(os.path.dirname(folder)).endswith("-packages"):
        return ok(f"{name}, built for {built_for or 'an unknown version'}")
    age = os.path.getmtime(system.path(f"{folder}/{name}"))
    newer = [
        source
        for below in ("", "/_native")
        for source in system.names(f"{folder}{below}")
        if source.endswith(SOURCES)
        and os.path.getmtime(system.path(f"{folder}{below}/{source}")) > age + 1
    ]
    if newer:
        return warn(f"{name} is older than {', '.join(newer[:3])}", mending)
    return ok(f"{name}, built for {built_for or 'an unknown version'}, not older than its sources")


@check("python.requirements", "packages that ckptfmt needs")
def requirements(case: Case) -> Iterator[Told]:
    """FAIL if one is missing or too old."""
    found = case.system.package("ckptfmt")
    if found is None:
        yield skip("ckptfmt is not installed as a package, so its requirements are not known")
        return
    wrong, right = [], []
    for name, wanted in required(found.requires):
        version = case.system.version(name)
        if not version:
            wrong.append(f"{name}{wanted} is missing")
        elif is_in(version, f"{name}{wanted}") is False:
            wrong.append(f"{name}{wanted} is wanted, found {version}")
        else:
            right.append(f"{name} {version}")
    if wrong:
        yield fail("; ".join(wrong), "pip install --upgrade ckptfmt")
    else:
        yield ok(", ".join(right) or "none")


@check("python.numpy", "numpy with torch and torch_npu")
def numpy(case: Case) -> Iterator[Told]:
    """WARN if numpy is 2 or newer and torch or torch_npu was built for numpy 1."""
    found = case.system.version("numpy")
    if numbers(found)[:1] < (2,):
        yield ok(f"numpy {found}" if found else "no numpy")
        return
    for name, first in (("torch_npu", NUMPY2_TORCH_NPU), ("torch", NUMPY2_TORCH)):
        version = case.system.version(name)
        if version and numbers(version) < numbers(first):
            yield warn(
                f"numpy {found} with {name} {base(version)}; known trouble: it was built for "
                "numpy 1",
                'pip install "numpy<2"',
            )
            return
    yield ok(f"numpy {found}")


@check("python.torchvision", "torchvision with torch", concerns="other")
def torchvision(case: Case) -> Iterator[Told]:
    """WARN if torchvision was built for another torch."""
    found, torch = case.system.package("torchvision"), case.system.version("torch")
    if found is None or not torch:
        yield ok("no torchvision" if found is None else "no torch")
        return
    wanted = requirement(found.requires, "torch")
    if wanted and is_in(base(torch), f"torch{wanted}") is False:
        yield warn(
            f"torchvision {found.version} wants torch{wanted}, found {torch}; ckptfmt does not "
            "need torchvision",
            "pip uninstall torchvision, or install the one for this torch",
        )
    else:
        yield ok(f"torchvision {found.version} with torch {torch}")


@check("python.accelerate", "accelerate with transformers", concerns="other")
def accelerate(case: Case) -> Iterator[Told]:
    """Never more than a note: device_map of transformers needs accelerate."""
    transformers = case.system.version("transformers")
    if transformers and not case.system.version("accelerate"):
        yield ok(
            "no accelerate: transformers' device_map needs it, ckptfmt does not",
            "pip install accelerate",
        )
    else:
        yield ok(f"transformers {transformers}" if transformers else "no transformers")


def imported_from(system: System) -> str:
    """The package's folder: of this process, or that ``python -m ckptfmt`` would find in a tree."""
    if system.is_live:
        return os.path.dirname(os.path.abspath(version_module.__file__))
    on_path = system.environment.get("PYTHONPATH", "").split(os.pathsep)
    for folder in [system.folder, *on_path, *system.sites]:
        if folder and system.exists(f"{folder}/ckptfmt/__init__.py"):
            return f"{folder}/ckptfmt"
    return ""


def extensions(system: System, folder: str) -> list[str]:
    """Compiled ``_core`` modules in a folder."""
    return [name for name in system.names(folder) if re.fullmatch(r"_core\..*so", name)]
