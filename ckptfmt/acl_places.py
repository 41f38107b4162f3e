"""Where Ascend's runtime library may be; nothing is opened here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME = "libascendcl.so"
#: Names the library itself, or the folder it is in; nothing else is tried then.
VARIABLE = "CKPTFMT_ACL_LIBRARY"
#: Set by CANN's set_env.sh; the library is in their lib64.
HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_TOOLKIT_LATEST_HOME")
#: Where CANN is installed by default.
FOLDERS = (
    "/usr/local/Ascend/ascend-toolkit/latest/lib64",
    "/usr/local/Ascend/cann/lib64",
    "/usr/local/Ascend/nnrt/latest/lib64",
    "~/Ascend/ascend-toolkit/latest/lib64",
    "~/Ascend/cann/lib64",
)
#: Folders of libraries to link against: every call of theirs fails.
STUBS = ("devlib", "stub", "stubs")


def candidates(
    environment: Mapping[str, str],
    is_folder: Callable[[str], bool],
    expand: Callable[[str], str],
) -> list[str]:
    """Paths to try, in order; a bare name is looked up by the system's linker.

    Parameters
    ----------
    environment : mapping
        The variables.
    is_folder : callable
        Whether a path leads to a folder.
    expand : callable
        Puts the user's home for ``~``.
    """
    named = environment.get(VARIABLE, "")
    if named:
        return [os.path.join(named, NAME) if is_folder(named) else named]
    folders = [os.path.join(environment[home], "lib64") for home in HOMES if environment.get(home)]
    folders += [expand(folder) for folder in FOLDERS]
    on_path = linker_folders(environment)
    if any(is_stub(folder) for folder in on_path):
        folders = on_path + folders  # the linker would take the stub
    else:
        folders = [NAME, *(folder for folder in folders if folder not in on_path)]
    return [
        NAME if folder == NAME else os.path.join(folder, NAME)
        for folder in dict.fromkeys(folders) if not is_stub(folder)
    ]  # fmt: skip


def linker_folders(environment: Mapping[str, str]) -> list[str]:
    """Folders that the linker is told to look in first."""
    return [f for f in environment.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]


def is_stub(path: str) -> bool:
    """Whether a path leads to libraries that are only there to link against."""
    return bool(set(os.path.normpath(path).split(os.sep)) & set(STUBS))
