"""Whether GPUDirect Storage is there: libcufile, and its driver in the kernel.

With it a disk's bytes go to the GPU without a stop in host memory, so nobody sees them on the way:
checksums cannot be compared, and what the page cache has is of no use.
"""

from __future__ import annotations

import os

from ckptfmt import _core

#: Names the library; then nothing else is tried, and the driver is only asked through it.
VARIABLE = "CKPTFMT_CUFILE_LIBRARY"
NAMES = ("libcufile.so.0", "libcufile.so")
#: The driver that does the work; without it the library copies through the host.
DRIVER = "/proc/driver/nvidia-fs/version"


def refusal() -> str:
    """Why it cannot be had; empty if it can. Opened at the first call that gets that far."""
    global _is_open  # noqa: PLW0603 - one library in one process
    if _is_open:
        return ""
    reason = missing()
    if reason:
        return reason
    named = os.environ.get(VARIABLE, "")
    reasons = []
    for path in [named] if named else NAMES:
        try:
            _core.open_cufile(path)
        except OSError as error:
            reasons.append(str(error))
        else:
            _is_open = True
            return ""
    return "; ".join(reasons)


def missing() -> str:
    """Why it is certainly not there, without opening anything; empty if it may be."""
    if os.environ.get(VARIABLE) or os.path.exists(DRIVER):
        return ""
    return "no nvidia-fs driver"


_is_open = False
