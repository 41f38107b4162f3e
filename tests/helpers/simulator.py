"""The simulated ACL runtime (docs/simulator.md): built once, given to children, spoken to."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.acl import build as maker

ROOT = Path(__file__).resolve().parents[2]

VERSIONS = maker.VERSIONS
NAME = "libascendcl.so"
BuildError = maker.BuildError


def _cache() -> Path:
    """Where libraries are kept: by what they are made of, so that a change is seen."""
    digest = hashlib.sha256(f"{os.environ.get('CC', 'cc')} {' '.join(maker.CFLAGS)}".encode())
    for path in maker.sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    base = ROOT / "build" if os.access(ROOT, os.W_OK) else Path(tempfile.gettempdir())
    return base / "simulator" / digest.hexdigest()[:16]


def build(version: str = "8.5.0", *, strict: bool = False) -> Path:
    """The folder with the libraries of a CANN version, built if it is not there yet.

    Safe in several processes at once: one builds, the others wait for it.

    Parameters
    ----------
    version : str
        Such as ``"8.5.0"`` or ``"8.1.RC1"``; tested are :data:`VERSIONS`.
    strict : bool
        Hide every function that this version does not have, even those without which torch_npu
        2.13.0 cannot be imported.

    Raises
    ------
    BuildError
        There is no C compiler, or it has failed.
    """
    cache = _cache()
    folder = cache / (version + "-strict" * strict)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects, work = cache / "objects", cache / f".{folder.name}"
        if not objects.is_dir():
            shutil.rmtree(cache / ".objects", ignore_errors=True)
            maker.compile_objects(cache / ".objects")
            (cache / ".objects").rename(objects)
        if not folder.is_dir():
            shutil.rmtree(work, ignore_errors=True)
            maker.link(sorted(objects.glob("*.o")), work, version, strict=strict)
            work.rename(folder)
    return folder


def settings_of(
    *, visible_devices: str | None = None, **settings: str | float | Path
) -> dict[str, str]:
    """Settings as variables: ``h2d=2.5`` is ``ACLSIM_H2D=2.5``."""
    found = {f"ACLSIM_{name.upper()}": str(value) for name, value in settings.items()}
    if visible_devices is not None:
        found["ASCEND_RT_VISIBLE_DEVICES"] = visible_devices
    return found


def environment(
    version: str = "8.5.0",
    *,
    strict: bool = False,
    visible_devices: str | None = None,
    **settings: str | float | Path,
) -> dict[str, str]:
    """The whole environment of a child that is to run on the simulator.

    Parameters
    ----------
    version, strict
        As for :func:`build`.
    visible_devices : str, optional
        ``ASCEND_RT_VISIBLE_DEVICES``, such as ``"0,2"``.
    **settings
        Those of docs/simulator.md, in small letters and without the prefix: ``devices=2``,
        ``h2d=1.5``, ``fail="aclrtMalloc:1=207001"``, ``report=path``.

    Returns
    -------
    dict of str to str
        This process's environment without any Ascend installation; numerical libraries use one
        thread. For ``subprocess.run(env=…)``, or as keywords of
        :func:`tests.helpers.children.run_child`.
    """
    folder = build(version, strict=strict)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ASCEND_", "ACLSIM_", "TORCH_DEVICE_BACKEND_AUTOLOAD"))
    }
    path = os.environ.get("LD_LIBRARY_PATH")
    return {
        **kept,
        "LD_LIBRARY_PATH": f"{folder}:{path}" if path else str(folder),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **settings_of(visible_devices=visible_devices, **settings),
    }


class Simulator:
    """A loaded simulator.

    Parameters
    ----------
    path : path-like, optional
        Its library. Without it the one that ``SIMULATOR_LIBRARY`` names or libascendcl.so: what
        this process has loaded, or what ``LD_LIBRARY_PATH`` leads to.
    """

    def __init__(self, path: str | Path = "") -> None:
        self.library = ctypes.CDLL(str(path) or os.environ.get("SIMULATOR_LIBRARY", NAME))
        self.library.aclsim_account.restype = ctypes.c_size_t
        self.library.aclsim_account.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

    def account(self) -> dict[str, Any]:
        """What lives, what was done, what was done wrongly (docs/simulator.md, Account)."""
        room = 1 << 16
        while True:
            text = ctypes.create_string_buffer(room)
            needed = self.library.aclsim_account(text, room)
            if needed <= room:
                return dict(json.loads(text.value))
            room = needed + (1 << 12)

    def fail(self, rules: str) -> None:
        """Replace the rules of failures; they count from here on. ``""`` for none."""
        if self.library.aclsim_fail(rules.encode()) != 0:
            raise ValueError(f"not understood: {rules!r}")

    def set(self, name: str, value: str | float) -> None:
        """Change one of the settings that may change at run time, such as ``"h2d"``."""
        if self.library.aclsim_set(name.upper().encode(), str(value).encode()) != 0:
            raise ValueError(f"no such setting, or not to be changed now: {name}={value}")

    def reset(self) -> None:
        """Set the counters of the account to zero."""
        self.library.aclsim_reset_counters()

    def live(self) -> dict[str, int]:
        """How many there are of each thing that should be given back."""
        return {name: len(found) for name, found in self.account()["live"].items()}
