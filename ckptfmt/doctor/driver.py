"""Checks of the driver and of devices: what the kernel offers, to whom, and how healthy it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptfmt import chips
from ckptfmt.doctor import ascend, linker, smi
from ckptfmt.doctor.findings import Told, check, fail, ok, skip, warn
from ckptfmt.doctor.numbers import in_range
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.case import Case

#: Beside one node for each device.
NODES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
LIBRARY = "libascend_hal.so"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
#: What npu-smi calls chips that may well work, and those that do not.
TROUBLED, BROKEN = ("Warning", "Alarm"), ("Critical", "Offline", "UNKNOWN", "Unknown")


@check("driver.installed", "the NPU's driver", kind="npu")
def installed(case: Case) -> Iterator[Told]:
    """FAIL if there is none."""
    driver = ascend.driver(case.system)
    if driver is None:
        yield fail(
            "no driver: neither /etc/ascend_install.info nor /usr/local/Ascend/driver leads to one",
            "install the driver on the host; in a container pass in /usr/local/Ascend/driver and "
            "/etc/ascend_install.info",
        )
    else:
        yield ok(f"driver {driver.version or 'of an unknown version'} at {driver.home}")


@check("driver.library", "the driver's libraries", kind="npu")
def library(case: Case) -> Iterator[Told]:
    """FAIL if the linker does not find libascend_hal.so, without which CANN's libraries cannot be
    opened."""
    driver = ascend.driver(case.system)
    if driver is None:
        yield skip("there is no driver")
        return
    found = linker.find(case.system, LIBRARY)
    if found:
        yield ok(found)
        return
    folders = [f"{driver.home}/lib64/{name}" for name in ("common", "driver")]
    yield fail(
        f"{LIBRARY} is not found by the linker",
        f"export LD_LIBRARY_PATH={':'.join(folders)}:$LD_LIBRARY_PATH, or add the folders to "
        "/etc/ld.so.conf.d and run ldconfig",
    )


@check("driver.firmware", "the driver with the firmware", kind="npu")
def firmware(case: Case) -> Iterator[Told]:
    """WARN if the firmware is outside of what the driver says that it goes with."""
    driver = ascend.driver(case.system)
    if driver is None or not driver.firmware:
        yield skip("the firmware's version is not told")
    elif in_range(driver.firmware, driver.fits_firmware) is False:
        yield warn(
            f"firmware {driver.firmware}; driver {driver.version} goes with {driver.fits_firmware}",
            "install driver and firmware of one package",
        )
    else:
        yield ok(f"firmware {driver.firmware}, driver {driver.version}")


@check("driver.cann", "the driver with CANN", kind="npu")
def cann(case: Case) -> Iterator[Told]:
    """WARN if neither names the other among those that it goes with (``compatible_version``)."""
    driver = ascend.driver(case.system)
    if driver is None or case.cann is None:
        yield skip("not both are known")
        return
    told = f"driver {driver.version} with CANN {case.cann.version}"
    of_driver, of_cann = ascend.codes(driver.inner), ascend.codes(case.cann.inner)
    if not of_driver or not of_cann:
        yield skip(f"{told}: they do not both say what they are")
    elif of_cann & ascend.codes(driver.fits) or of_driver & ascend.codes(case.cann.fits):
        yield ok(f"{told}: they name each other")
    else:
        yield warn(
            f"{told}: the driver goes with {driver.fits or 'nothing that it names'}, CANN is "
            f"{case.cann.inner}",
            "upgrade the older of the two",
        )


@check("device.nodes", "device nodes", kind="npu")
def nodes(case: Case) -> Iterator[Told]:
    """FAIL if nodes below /dev are missing, as in a container that was not given them, or if this
    user may not use them (error 207006)."""
    system = case.system
    devices = [n for n in system.find("/dev/davinci[0-9]*") if n[12:].isdecimal()]
    missing = [name for name in NODES if not system.exists(name)]
    if not devices:
        missing.insert(0, "/dev/davinci0 (or another number)")
    if missing:
        yield fail(
            f"missing: {', '.join(missing)}",
            "docker run " + " ".join(
                f"--device={name}" for name in ("/dev/davinci0", *NODES)
            ) + "; on the host: load the driver (npu-smi info)",
        )  # fmt: skip
        return
    refused = [name for name in (*devices, *NODES) if not system.may_use(name)]
    if not refused:
        yield ok(f"{len(devices)} of /dev/davinci*, {', '.join(NODES)}")
        return
    group = (ascend.driver(system) or _UNKNOWN).group
    yield fail(
        f"this user may not use {', '.join(refused)} (the runtime says 207006); they belong to "
        f"group {group}",
        f"sudo usermod -aG {group} $USER, then log in again",
    )


_UNKNOWN = ascend.Driver("", "", "", "", "", "", "HwHiAiUser")


@check("device.group", "the group that may use devices", kind="npu")
def group(case: Case) -> Iterator[Told]:
    """WARN if the group that the driver was installed for does not exist here, as in images of
    containers."""
    name = (ascend.driver(case.system) or _UNKNOWN).group
    uid, groups = case.system.user
    number = case.system.group_number(name)
    if uid == 0:
        yield ok("root needs none")
    elif number is None:
        yield warn(f"there is no group {name}", f"sudo groupadd {name}, with the host's number")
    elif number in groups:
        yield ok(f"this user is in {name}")
    else:
        yield ok(f"this user is not in {name}; device.nodes tells whether that matters")


@check("device.visible", "ASCEND_RT_VISIBLE_DEVICES", kind="npu")
def visible(case: Case) -> Iterator[Told]:
    """FAIL if it hides the device that is wanted; WARN if the runtime stops reading it half-way: it
    takes ascending numbers and commas, without spaces."""
    value = case.system.environment.get(VISIBLE)
    if value is None:
        yield ok("not set: all devices")
        return
    entries = value.split(",")
    read = [n for n in range(len(entries)) if chips.physical_device(n, value) is not None]
    fix = f"export {VISIBLE}=0,1 (ascending, no spaces), or unset it"
    if chips.physical_device(case.number, value) is None:
        yield fail(f"{value!r} leaves no {case.device}", fix)
    elif len(read) < len(entries):
        yield warn(f"{value!r} is read as {','.join(entries[: len(read)])!r}", fix)
    else:
        physical = chips.physical_device(case.number, value)
        yield ok(f"{value}: {case.device} is physical device {physical}")


@check("device.smi", "npu-smi: health and memory of the chips", kind="npu")
def health(case: Case) -> Iterator[Told]:
    """FAIL if the driver does not answer, or a chip is critical; WARN if one has an alarm, with
    which many work."""
    text = case.system.output("npu-smi info")
    if text is None:
        yield skip("there is no npu-smi")
        return
    if not case.chips:
        said = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        yield fail(
            f"npu-smi lists no chip: {said}",
            "the driver is not loaded, or device nodes are not passed in: see device.nodes, dmesg",
        )
        return
    for chip in case.chips:
        yield _chip(chip)


def _chip(chip: smi.Chip) -> Told:
    memory = chip.memory()
    used = f", {format_nbytes(memory[0])} of {format_nbytes(memory[1])} free" if memory else ""
    told = f"NPU {chip.fields.get('NPU', '?')} is {chip.name}, Health {chip.health}{used}"
    if chip.name.startswith("310B"):
        shared = f" ({format_nbytes(memory[1])})" if memory else ""
        told = (
            f"NPU {chip.fields.get('NPU', '?')} is Ascend{chip.name}, memory shared with the host"
            f"{shared}; Health {chip.health}"
        )
        if chip.health in TROUBLED:
            return warn(f"{told}, which is common on this board", "npu-smi info -t health -i 0")
    if chip.health in BROKEN:
        return fail(told, "see dmesg; npu-smi set -t reset when nobody uses it")
    if chip.health in TROUBLED:
        return warn(told, f"npu-smi info -t health -i {chip.fields.get('NPU', '0')}")
    return ok(told)


@check("device.log", "the runtime's log", kind="npu")
def log(case: Case) -> Iterator[Told]:
    """WARN if its level is none that the runtime knows."""
    level = case.system.environment.get("ASCEND_GLOBAL_LOG_LEVEL", "")
    if level not in ("", "0", "1", "2", "3", "4"):
        yield warn(f"ASCEND_GLOBAL_LOG_LEVEL is {level!r}", "export ASCEND_GLOBAL_LOG_LEVEL=3")
    elif case.system.environment.get("ASCEND_SLOG_PRINT_TO_STDOUT") == "1":
        yield ok("it goes to stdout; commands of ckptfmt send it to stderr")
    else:
        yield ok(
            "it goes to files; ASCEND_GLOBAL_LOG_LEVEL=1 ASCEND_SLOG_PRINT_TO_STDOUT=1 shows it"
        )
