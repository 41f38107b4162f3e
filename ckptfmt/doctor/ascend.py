"""What of Ascend's software is installed, read from its files: CANN, the driver, ATB."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt import acl_places, cann_files
from ckptfmt.doctor import linker, numbers
from ckptfmt.doctor.versions import CANN_INNER

if TYPE_CHECKING:
    from ckptfmt.doctor.system import System

#: Where CANN may be, each version in a folder of its own; before 8.5, and from then on.
PLACES = (
    "/usr/local/Ascend/ascend-toolkit/*", "/usr/local/Ascend/cann*", "/usr/local/Ascend/nnrt/*",
    "~/Ascend/ascend-toolkit/*", "~/Ascend/cann*", "~/Ascend/nnrt/*",
)  # fmt: skip
#: Packages of CANN whose ``version.info`` names the release, too.
PACKAGES = ("runtime", "compiler", "toolkit", "opp")
#: Where ATB may be; the last is where it lies if somebody unpacks it.
ATB_PLACES = ("/usr/local/Ascend/nnal/atb", "~/Ascend/nnal/atb", "~/Ascend/atb")
#: Levels of folders between a library and CANN's home, at most.
LEVELS = 5


@dataclass(frozen=True, slots=True)
class Cann:
    """One installation.

    Attributes
    ----------
    home : str
        Its folder, links followed.
    version : str
        Of the release, ``"8.1.RC1"``.
    inner, fits : str
        What it calls itself towards the driver, and which of those it goes with; may be empty.
    names : tuple of str
        Other paths that lead here, such as ``latest``.
    """

    home: str
    version: str
    inner: str = ""
    fits: str = ""
    names: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """What sets the variables for it."""
        above, name = os.path.split(self.home)
        return f"{self.home if name.startswith('cann') else above}/set_env.sh"

    def __str__(self) -> str:
        return f"{self.version} at {self.home}"


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver and the firmware; versions are empty where nothing tells them."""

    home: str
    version: str
    inner: str
    fits: str
    fits_firmware: str
    firmware: str
    group: str


@dataclass(frozen=True, slots=True)
class Atb:
    """One installation of ATB, which is a part of NNAL."""

    home: str
    script: str
    version: str
    abis: tuple[str, ...]
    is_unpacked: bool


def installations(system: System) -> list[Cann]:
    """Every CANN that is found, those that the variables name included."""
    environment = system.environment
    paths = [environment[name] for name in acl_places.HOMES if environment.get(name)]
    paths += [path for place in PLACES for path in system.find(system.expand(place))]
    found: dict[tuple[str, str], Cann] = {}
    for path in paths:
        home = system.real(path)
        version = version_in(system, home)
        if not version:
            continue
        # ``latest`` may be a folder of links into the version's own.
        key = (os.path.dirname(home), version)
        is_own = os.path.basename(home) != "latest"
        before = found.get(key)
        if before is None or (is_own and os.path.basename(before.home) == "latest"):
            info = _install_info(system, home)
            found[key] = Cann(
                home, version, cann_files.field(info, "innerversion"),
                cann_files.field(info, "compatible_version"),
                (*before.names, before.home) if before else (),
            )  # fmt: skip
        if path != found[key].home and path not in found[key].names:
            one = found[key]
            found[key] = Cann(one.home, version, one.inner, one.fits, (*one.names, path))
    return list(found.values())


def version_in(system: System, home: str) -> str:
    """The release that a folder holds; empty if it is no CANN."""
    for pattern, expression in cann_files.VERSION_FILES:
        for path in system.find(f"{home}/{pattern}"):
            match = re.search(expression, system.read(path))
            if match:
                return _release(match[1])
    for package in PACKAGES:
        text = system.read(f"{home}/{package}/version.info")
        found = cann_files.field(text, "version_dir") or cann_files.field(text, "Version")
        if found:
            return _release(found)
    return ""


def of_path(system: System, path: str) -> Cann | None:
    """The CANN that a library or a folder belongs to."""
    folder = system.real(path)
    for _ in range(LEVELS):
        version = version_in(system, folder)
        if version:
            info = _install_info(system, folder)
            return Cann(
                folder, version, cann_files.field(info, "innerversion"),
                cann_files.field(info, "compatible_version"),
            )  # fmt: skip
        folder = os.path.dirname(folder)
    return None


def library(system: System) -> str:
    """The libascendcl.so that a load would open: torch_npu's by the linker, else ckptfmt's own.

    A stub that the linker finds first is what torch_npu opens.
    """
    found = linker.find(system, acl_places.NAME)
    if found and acl_places.VARIABLE not in system.environment:
        return found
    places = acl_places.candidates(system.environment, system.is_folder, system.expand)
    for path in places:
        if path == acl_places.NAME and found:
            return found
        if path != acl_places.NAME and system.exists(path):
            return path
    return ""


def driver(system: System) -> Driver | None:
    """The driver by its files, of which a container may have only some."""
    installed = system.read(cann_files.DRIVER_INSTALLED)
    home = cann_files.driver_home(installed)
    text = system.read(f"{home}/driver/version.info")
    if not text and not system.is_folder(f"{home}/driver/lib64"):
        return None
    firmware = system.read(f"{home}/firmware/version.info")
    return Driver(
        home=f"{home}/driver",
        version=cann_files.field(text, "package_version") or cann_files.field(text, "Version"),
        inner=cann_files.field(text, "Innerversion"),
        fits=cann_files.field(text, "compatible_version"),
        fits_firmware=cann_files.field(text, "compatible_version_fw"),
        firmware=cann_files.field(firmware, "Version"),
        group=cann_files.field(installed, "UserGroup") or "HwHiAiUser",
    )


def atbs(system: System) -> list[Atb]:
    """Every ATB that is found."""
    found = []
    for place in ATB_PLACES:
        root = system.expand(place)
        for script in system.find(f"{root}/set_env.sh"):
            folders = system.find(f"{root}/atb/cxx_abi_?")
            folders += system.find(f"{root}/*/atb/cxx_abi_?")
            infos = system.find(f"{root}/version.info") + system.find(f"{root}/*/version.info")
            matches = [re.search(r"Ascend-cann-atb\s*:\s*(\S+)", system.read(i)) for i in infos]
            found.append(Atb(
                root, script, next((match[1] for match in matches if match), ""),
                tuple(sorted({folder[-1] for folder in folders})), place == ATB_PLACES[-1],
            ))  # fmt: skip
    return found


def codes(text: str) -> set[str]:
    """Names such as V100R001C21 in what driver and CANN say they go with."""
    return set(re.findall(r"V[0-9]+R[0-9]+C[0-9]+", text))


def _install_info(system: System, home: str) -> str:
    paths = system.find(f"{home}/*/ascend_toolkit_install.info")
    return system.read(paths[0]) if paths else ""


def _release(version: str) -> str:
    """The release's name for an inner one: 8.0.0 for 7.6.0.1.220, 8.5.0 for 8.5.0.2.220."""
    found = numbers.numbers(version)
    if len(found) < 5:
        return version
    inner = ".".join(map(str, found[:2]))
    return CANN_INNER.get(inner, ".".join(map(str, found[:3])))
