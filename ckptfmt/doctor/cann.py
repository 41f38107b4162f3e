"""Checks of CANN: which there are, which one a process here would load, and what disagrees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt import acl_places
from ckptfmt.doctor import ascend, linker
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import numbers, train
from ckptfmt.doctor.versions import (
    CANN_OLDEST,
    CANN_REGISTERS,
    CANN_REGISTERS_V2,
    DRIVER_REGISTERS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

#: Variables that name CANN's home, or a folder of it.
NAMING = (*acl_places.HOMES, "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH")
INSTALL = "install CANN (Ascend-cann-toolkit or -nnrt) for the chip, then source its set_env.sh"


@check("cann.installed", "installations of CANN", kind="npu")
def installed(case: Case) -> Iterator[Told]:
    """FAIL if there is none. Several are named, with the one that ``latest`` leads to."""
    if not case.canns:
        yield fail("no CANN is found below /usr/local/Ascend and ~/Ascend", INSTALL)
        return
    told = []
    for cann in case.canns:
        is_latest = any(os.path.basename(name) in ("latest", "cann") for name in cann.names)
        told.append(f"{cann}{' (latest)' if is_latest and len(case.canns) > 1 else ''}")
    yield ok(f"CANN found: {', '.join(told)}")


@check("cann.library", "the libascendcl.so that a process here would load", kind="npu")
def library(case: Case) -> Iterator[Told]:
    """FAIL if there is none, if it is a stub to link against (error 100039), or if its CANN is
    older than 7.0."""
    path = case.library
    if not path:
        tried = acl_places.candidates(
            case.system.environment, case.system.is_folder, case.system.expand
        )
        scripts = [f"source {cann.script}" for cann in case.canns[:1]]
        yield fail(
            f"{acl_places.NAME} is not found; looked in {', '.join(tried)}",
            scripts[0] if scripts else INSTALL,
        )
        return
    if acl_places.is_stub(path):
        yield fail(
            f"{path} is a stub to compile against: every call to it fails with code 100039",
            "take devlib and stub folders out of LD_LIBRARY_PATH, then source set_env.sh",
        )
        return
    cann = case.cann
    if cann is None:
        yield ok(f"{path}, of a CANN that does not tell its version")
    elif numbers(cann.version) < numbers(CANN_OLDEST):
        yield fail(f"{path} is of CANN {cann}", f"ckptfmt needs CANN {CANN_OLDEST} or newer")
    else:
        yield ok(f"CANN {cann}: {path}")


@check("cann.staging", "how host memory can be registered, by CANN's version", kind="npu")
def staging(case: Case) -> Iterator[Told]:
    """Never more than a note: which staging to expect; a probe decides at every start
    (docs/devices.md)."""
    if case.cann is None:
        yield skip("which CANN would be loaded is not known")
        return
    version = case.cann.version
    driver = ascend.driver(case.system)
    too_old = driver is not None and (0,) < numbers(driver.version) < numbers(DRIVER_REGISTERS)
    if case.is_board:
        letter, why = "E", "host and device have one memory"
    elif train(version) < numbers(CANN_REGISTERS):
        letter, why = "C", f"{'.'.join(map(str, train(version)))} has no host registration"
    elif too_old and driver is not None:
        letter, why = "C", f"driver {driver.version} does not register host memory"
    elif train(version) < numbers(CANN_REGISTERS_V2):
        letter, why = "B", "aclrtHostRegister"
    else:
        letter, why = "A", "aclrtHostRegisterV2"
    yield ok(f"CANN {case.cann}; strategy {letter} ({why})")


@check("cann.mixed", "variables that name CANN, against the library", kind="npu")
def mixed(case: Case) -> Iterator[Told]:
    """WARN if variables name another CANN than the one whose library would be loaded: two versions
    in one process."""
    if case.cann is None:
        yield skip("which CANN would be loaded is not known")
        return
    others = []
    for name in NAMING:
        value = case.system.environment.get(name)
        if not value:
            continue
        named = ascend.of_path(case.system, value)
        if named is None:
            others.append(f"{name} names {value}, which is no CANN")
        elif named.version != case.cann.version:
            others.append(f"{name} names {value} -> {named.version}")
    if others:
        yield warn(
            f"libascendcl comes from {case.cann.version}, {', '.join(others)}",
            f"source one set_env.sh only, in a new shell: source {case.cann.script}",
        )
    else:
        yield ok(f"all name {case.cann.version}, or nothing")


@check("cann.opp", "the operator package (ASCEND_OPP_PATH)", kind="npu")
def opp(case: Case) -> Iterator[Told]:
    """FAIL if the variable names a folder that is no operator package (error 148049)."""
    path = case.system.environment.get("ASCEND_OPP_PATH")
    if not path:
        yield ok("not set; ckptfmt itself needs no operators")
    elif case.system.is_folder(f"{path}/built-in") or case.system.exists(f"{path}/version.info"):
        yield ok(path)
    else:
        yield fail(
            f"{path} is no operator package: the runtime refuses it with code 148049",
            "source the set_env.sh of the CANN in use: "
            + (case.canns[0].script if case.canns else "<CANN>/set_env.sh"),
        )


@check("cann.environment", "which set-up scripts this shell has seen", kind="npu")
def environment(case: Case) -> Iterator[Told]:
    """WARN if CANN's set_env.sh was not sourced; the lines to source, in their order."""
    found = case.system.environment
    lines = []
    if not found.get("CONDA_DEFAULT_ENV") and "conda" in "".join(case.system.sites[:1]):
        lines.append("conda activate <environment>")
    if case.canns and not any(found.get(name) for name in acl_places.HOMES):
        lines.append(f"source {(case.cann or case.canns[0]).script}")
    is_set = not lines
    with_vllm = bool(case.system.version("vllm_ascend"))
    atbs = ascend.atbs(case.system)
    if with_vllm and atbs and not found.get("ATB_HOME_PATH"):
        lines.append(f"source {atbs[0].script}")
    if not lines:
        yield ok("CANN's variables are set" if case.canns else "no CANN to set up")
    elif is_set:
        yield ok(f"CANN's variables are set; for vllm-ascend: {lines[-1]}")
    elif case.system.environment.get(acl_places.VARIABLE) or linker.find(
        case.system, acl_places.NAME
    ):
        yield ok(f"the library is found without; set-up of everything else: {'; '.join(lines)}")
    else:
        yield warn("CANN's set_env.sh has not been sourced in this shell", "; ".join(lines))


@check("cann.stubs", "stubs on LD_LIBRARY_PATH", kind="npu")
def stubs(case: Case) -> Iterator[Told]:
    """WARN if a folder of stubs stands there, even behind the real library: ckptfmt passes over
    such folders, torch_npu does not."""
    found = [
        f for f in acl_places.linker_folders(case.system.environment) if acl_places.is_stub(f)
    ]
    if found:
        yield warn(
            f"LD_LIBRARY_PATH has {', '.join(found)}",
            "take it out: those libraries are only there to compile against",
        )
    else:
        yield ok("none")
