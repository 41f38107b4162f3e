"""Where Ascend's runtime library is: the copy the process has, else where it is installed.

A second copy from another path would be a second runtime beside torch_npu's, so what is loaded
already comes first.
"""

from __future__ import annotations

import os

from ckptfmt import _core
from ckptfmt.errors import DeviceError
from ckptfmt.runtime_library import open_first

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


def candidates() -> list[str]:
    """Paths to try, in order; a bare name is looked up by the system's linker."""
    named = os.environ.get(VARIABLE, "")
    if named:
        return [os.path.join(named, NAME) if os.path.isdir(named) else named]
    folders = [
        os.path.join(os.environ[home], "lib64") for home in HOMES if os.environ.get(home)
    ]
    folders += [os.path.expanduser(folder) for folder in FOLDERS]
    on_path = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    if any(is_stub(folder) for folder in on_path):
        folders = on_path + folders  # the linker would take the stub
    else:
        folders = [NAME, *(folder for folder in folders if folder not in on_path)]
    return [
        NAME if folder == NAME else os.path.join(folder, NAME)
        for folder in dict.fromkeys(folders) if not is_stub(folder)
    ]  # fmt: skip


def is_stub(path: str) -> bool:
    """Whether a path leads to libraries that are only there to link against."""
    return bool(set(os.path.normpath(path).split(os.sep)) & set(STUBS))


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
