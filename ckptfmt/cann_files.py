"""CANN's installation as its files tell it."""

from __future__ import annotations

import re

#: Where CANN is looked for if its own variables name no place.
HOMES = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
#: Files below CANN's home that tell its version, and the expression that finds it: versions of CANN
#: before 8.1.RC1 have no function for it.
VERSION_FILES = (
    ("version.cfg", r"runtime_running_version=\[[^:\]]*:([^\]]+)\]"),
    ("*/ascend_toolkit_install.info", r"(?m)^version=(\S+)"),
    ("share/info/runtime/version.info", r"(?m)^Version=(\S+)"),
)
#: Tells where the driver is.
DRIVER_INSTALLED = "/etc/ascend_install.info"


def driver_home(installed: str) -> str:
    """The folder above the driver's, by what :data:`DRIVER_INSTALLED` says."""
    match = re.search(r"(?m)^Driver_Install_Path_Param=(.+)", installed)
    return match[1].strip() if match else "/usr/local/Ascend"


def field(text: str, name: str) -> str:
    """The value of ``name=value``; empty if there is none."""
    match = re.search(rf"(?m)^\s*{re.escape(name)}=(.*)", text)
    return match[1].strip().strip('"') if match else ""
