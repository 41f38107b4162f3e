"""Where the CUDA runtime is: the copy that torch has loaded, else where one is installed.

Any copy works on the same primary contexts as torch's; torch's own is of the version that its
driver has been found to serve.
"""

from __future__ import annotations

import os
import re

from ckptfmt import _core
from ckptfmt.errors import DeviceError
from ckptfmt.runtime_library import open_first

#: Names the library itself, or the folder it is in; nothing else is tried then.
VARIABLE = "CKPTFMT_CUDART_LIBRARY"
NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
#: Set by people and by modules of clusters; the library is in their lib64.
HOMES = ("CUDA_HOME", "CUDA_PATH")
FOLDERS = ("/usr/local/cuda/lib64",)


def loaded() -> str:
    """The path of the copy that this process has, empty if it has none."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                path = line.rstrip("\n").partition("/")[2]
                if re.match(r"libcudart[-.0-9a-f]*\.so", os.path.basename(path)):
                    return f"/{path}"
    except OSError:
        pass
    return ""


def candidates() -> list[str]:
    """Paths to try, in order; a bare name is looked up by the system's linker."""
    named = os.environ.get(VARIABLE, "")
    if named:
        return [os.path.join(named, NAMES[-1]) if os.path.isdir(named) else named]
    folders = [os.path.join(os.environ[home], "lib64") for home in HOMES if os.environ.get(home)]
    in_folders = [os.path.join(f, NAMES[-1]) for f in dict.fromkeys([*folders, *FOLDERS])]
    return [path for path in (loaded(),) if path] + list(NAMES) + in_folders


def bind() -> str:
    """Open the library once for this process; later calls do nothing.

    Returns
    -------
    str
        What was opened.

    Raises
    ------
    DeviceError
        There is none, or one that lacks what CUDA 11 has. The message names all places.
    """
    global _bound
    if _bound:
        return _bound
    _bound, tried = open_first(candidates(), _core.open_cuda)
    if _bound:
        return _bound
    raise DeviceError(
        f"the CUDA runtime cannot be opened: {tried}",
        hint="pip install nvidia-cuda-runtime in the version of your torch, "
        f"or set {VARIABLE} to the library's path",
    )


_bound = ""
