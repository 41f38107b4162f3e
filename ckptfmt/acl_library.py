"""Ascend's runtime library opened: the copy the process has, else one that is installed.

A second copy from another path would be a second runtime beside torch_npu's, so what is loaded
already comes first.
"""

from __future__ import annotations

import os

from ckptfmt import _core, acl_places
from ckptfmt.acl_places import FOLDERS, HOMES, NAME, VARIABLE, is_stub
from ckptfmt.errors import DeviceError
from ckptfmt.runtime_library import open_first

__all__ = ["FOLDERS", "HOMES", "NAME", "VARIABLE", "bind", "candidates", "is_stub"]


def candidates() -> list[str]:
    """Paths to try, in order; a bare name is looked up by the system's linker."""
    return acl_places.candidates(os.environ, os.path.isdir, os.path.expanduser)


def bind() -> str:
    """Open the library once for this process; later calls do nothing.

    Returns
    -------
    str
        What was opened.

    Raises
    ------
    DeviceError
        There is none, or one that lacks what CANN 7.0 has. The message names all places.
    """
    global _bound  # noqa: PLW0603 - one runtime in one process
    if _bound:
        return _bound
    try:
        _core.open_acl(NAME, loaded_only=True)
    except OSError:
        _bound, tried = open_first(candidates(), _core.open_acl)
    else:
        _bound = NAME
    if _bound:
        return _bound
    raise DeviceError(
        f"{NAME} of CANN cannot be opened: {tried}",
        hint="install CANN and run its set_env.sh in this shell, "
        f"or set {VARIABLE} to the library's path",
    )


_bound = ""
