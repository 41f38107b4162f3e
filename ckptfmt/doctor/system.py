"""A machine as checks read it: files, variables, packages, commands; this one or a tree of files.

In a tree everything lies at its own path below the root; what is no file on a machine has one in
the folder ``ckptfmt-doctor`` (docs/doctor.md).
"""

from __future__ import annotations

import errno
import fnmatch
import os
import platform
import re
import stat
import subprocess
import sys
import sysconfig
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Folder of a tree with what is no file on a machine.
DESCRIBED = "/ckptfmt-doctor"
#: Links that a path may lead over.
MAX_LINKS = 40
#: A command that hangs tells that, too; it is not waited for longer.
COMMAND_TIMEOUT_S = 20
#: Where Python keeps packages, if no environment is active.
SITES = (
    "/usr/local/lib/python3.*/site-packages", "/usr/local/lib/python3.*/dist-packages",
    "/usr/lib/python3.*/site-packages", "/usr/lib/python3/dist-packages",
)  # fmt: skip


class System:
    """One machine.

    Parameters
    ----------
    root : str, optional
        A tree that describes another machine; None for the one this runs on.

    Attributes
    ----------
    is_live : bool
        Whether things can be tried out on it.
    environment : mapping
        Its variables.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root) if root is not None else None
        self.is_live = root is None
        self.environment: Mapping[str, str] = (
            dict(os.environ) if self.is_live else dict(_variables(self.read("/proc/self/environ")))
        )

    # ---- files ----

    def real(self, name: str) -> str:
        """A path of the machine with its links followed; links of a tree stay below its root."""
        if self.root is None:
            return os.path.realpath(name)
        todo, done, links = _parts(name), list[str](), 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = os.path.join(self.root, *done, part)
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            todo += _parts(target)
        return "/" + "/".join(done)

    def path(self, name: str) -> str:
        """Where a file of the machine is on this one."""
        found = self.real(name)
        return found if self.root is None else os.path.join(self.root, found.lstrip("/"))

    def read_bytes(self, name: str) -> bytes:
        """What is in a file; nothing if there is none."""
        try:
            with open(self.path(name), "rb") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return b""

    def read(self, name: str) -> str:
        """The same as text."""
        return self.read_bytes(name).decode("utf-8", "replace")

    def exists(self, name: str) -> bool:
        """Whether a path leads somewhere."""
        return os.path.exists(self.path(name))

    def is_folder(self, name: str) -> bool:
        """Whether it leads to a folder."""
        return os.path.isdir(self.path(name))

    def names(self, folder: str) -> list[str]:
        """What is in a folder, in order; nothing if there is none."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []

    def find(self, pattern: str) -> list[str]:
        """Paths that match a pattern with ``*`` and ``?`` in its parts."""
        found = [""]
        for part in reversed(_parts(pattern)):
            if not set(part) & set("*?["):
                found = [f"{folder}/{part}" for folder in found]
                continue
            found = [
                f"{folder}/{name}"
                for folder in found
                for name in fnmatch.filter(self.names(folder or "/"), part)
            ]
        return [path for path in found if self.exists(path)]

    @property
    def folder(self) -> str:
        """The current one; empty if a tree does not say."""
        return os.getcwd() if self.is_live else self.environment.get("PWD", "")

    def expand(self, name: str) -> str:
        """``~`` is the user's home."""
        home = self.environment.get("HOME", "/root")
        return home + name[1:] if name == "~" or name.startswith("~/") else name

    # ---- who may do what ----

    @cached_property
    def user(self) -> tuple[int, frozenset[int]]:
        """The number of the user that the process is, and those of its groups."""
        status = self.read("/proc/self/status")
        found = {
            name: [int(number) for number in re.findall(r"[0-9]+", numbers)]
            for name, numbers in re.findall(r"(?m)^(Uid|Gid|Groups):(.*)$", status)
        }
        uids, gids = found.get("Uid"), found.get("Gid", [])
        if not uids:
            return (os.geteuid(), frozenset(os.getgroups())) if self.is_live else (0, frozenset())
        return uids[min(1, len(uids) - 1)], frozenset([*gids, *found.get("Groups", [])])

    def owner(self, name: str) -> tuple[int, int, int]:
        """Permissions of a path, numbers of its user and of its group."""
        if self.root is None:
            status = os.stat(name)
            return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        for line in self.read(f"{DESCRIBED}/owners.txt").splitlines():
            mode, uid, gid, path = (line.split(maxsplit=3) + [""] * 4)[:4]
            if path == name:
                return int(mode, 8), int(uid), int(gid)
        return 0o666, 0, 0

    def may_use(self, name: str) -> bool:
        """Whether the process may read and write it."""
        if self.root is None:
            return os.access(name, os.R_OK | os.W_OK)
        mode, owner, group = self.owner(name)
        uid, groups = self.user
        bits = mode >> 6 if uid == owner else mode >> 3 if group in groups else mode
        return uid == 0 or bits & 0o6 == 0o6

    def group_number(self, name: str) -> int | None:
        """A group's number by its name."""
        match = re.search(rf"(?m)^{re.escape(name)}:[^:]*:([0-9]+):", self.read("/etc/group"))
        return int(match[1]) if match else None

    # ---- commands and the kernel ----

    def output(self, command: str) -> str | None:
        """What a command prints, on stderr too; None if there is none of that name.

        Raises
        ------
        OSError
            It cannot be started, or does not end.
        """
        if self.root is not None:
            name = f"{DESCRIBED}/{command}.txt"
            return self.read(name) if self.exists(name) else None
        environment = {**self.environment, "LC_ALL": "C"}
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{path}:/usr/local/sbin:/usr/local/bin"
        try:
            done = subprocess.run(
                command.split(), env=environment, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, errors="replace", timeout=COMMAND_TIMEOUT_S, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except subprocess.TimeoutExpired as error:
            raise OSError(
                errno.ETIMEDOUT, f"does not end within {COMMAND_TIMEOUT_S} s", command
            ) from error
        return done.stdout + done.stderr

    @property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.read("/proc/sys/kernel/osrelease").strip()

    @property
    def architecture(self) -> str:
        """``x86_64`` or ``aarch64``; empty if a tree does not say."""
        if self.is_live:
            return platform.machine()
        return self.read("/proc/sys/kernel/arch").strip()

    @property
    def page_nbytes(self) -> int:
        """Of the kernel; 0 if a tree does not say."""
        if self.is_live:
            return os.sysconf("SC_PAGE_SIZE")
        text = (self.output("getconf PAGESIZE") or "").strip()
        return int(text) if text.isdecimal() else 0

    # ---- Python ----

    @cached_property
    def sites(self) -> list[str]:
        """Folders that Python imports from, in order."""
        if self.is_live:
            return [os.path.abspath(folder or ".") for folder in sys.path]
        named = [self.environment.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX")]
        patterns = [f"{prefix}/lib/python3.*/site-packages" for prefix in named if prefix]
        found = [path for pattern in patterns for path in self.find(pattern)]
        return found or [path for pattern in SITES for path in self.find(pattern)]

    @property
    def python(self) -> str:
        """Its version; empty if a tree has none."""
        if self.is_live:
            return platform.python_version()
        matches = (re.search(r"/python(3\.[0-9]+)/", f"{site}/") for site in self.sites)
        return next((match[1] for match in matches if match), "")

    @property
    def extension_suffix(self) -> str:
        """What names of compiled modules end in."""
        if self.is_live:
            return str(sysconfig.get_config_var("EXT_SUFFIX"))
        return f".cpython-{self.python.replace('.', '')}-{self.architecture}-linux-gnu.so"

    def package(self, *names: str) -> metadata.Distribution | None:
        """An installed package, by the first of its names that is there."""
        folders = [self.path(site) for site in self.sites]
        for name in names:
            for found in metadata.distributions(name=name, path=folders):
                return found
        return None

    def version(self, *names: str) -> str:
        """Its version; empty if it is not installed."""
        found = self.package(*names)
        return str(found.version or "") if found else ""


def _parts(name: str) -> list[str]:
    """Parts of a path, the last first."""
    return [part for part in name.split("/") if part not in ("", ".")][::-1]


def _variables(text: str) -> list[tuple[str, str]]:
    """As the kernel has them, or one a line."""
    pairs = (entry.partition("=") for entry in re.split(r"[\0\n]", text) if "=" in entry)
    return [(name, value) for name, _, value in pairs]
