"""Where the system's linker finds a library, by variables and files, without opening it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.acl_places import linker_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.doctor.system import System

DEFAULTS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


def folders(system: System) -> list[str]:
    """Where it looks, in order."""
    own = [f"/usr/lib/{system.architecture}-linux-gnu"] if system.architecture else []
    return [*linker_folders(system.environment), *_configured(system), *own, *DEFAULTS]


def find(system: System, name: str) -> str:
    """The first library of a name; empty if there is none."""
    for folder in folders(system):
        path = os.path.join(folder, name)
        if system.exists(path):
            return path
    return ""


def _configured(system: System, file: str = "/etc/ld.so.conf", depth: int = 0) -> Iterator[str]:
    for line in system.read(file).splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"] and depth < 4:
            for pattern in words[1:]:
                for path in system.find(os.path.join("/etc", pattern)):
                    yield from _configured(system, path, depth + 1)
        elif words:
            yield words[0]
