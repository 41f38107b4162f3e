"""System calls refused as containers do it: a seccomp filter for this process and its children.

There is no way back, so it belongs in a child.
"""

from __future__ import annotations

import ctypes
import platform
import struct

_NUMBERS = {
    # name: (x86-64, aarch64)
    "preadv2": (327, 286), "mincore": (27, 232), "fallocate": (285, 47), "statx": (332, 291),
    "renameat2": (316, 276), "flock": (73, 32), "cachestat": (451, 451),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
#: System calls that `refuse` knows.
CALLS = tuple(_NUMBERS)

# linux/filter.h, linux/seccomp.h, linux/prctl.h
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(calls: dict[str, int]) -> None:
    """Make system calls fail from now on, in this thread and those it starts.

    Parameters
    ----------
    calls : dict of str to int
        Names from `CALLS`, and the errno that each is to give.

    Raises
    ------
    OSError
        The kernel takes no filter.
    """
    machine = ("x86_64", "aarch64").index(platform.machine())
    rows = [(_LOAD_WORD, 0, 0, 0)]  # offset 0 of struct seccomp_data: the number
    for name, code in calls.items():
        rows.append((_JUMP_IF_EQUAL, 0, 1, _NUMBERS[name][machine]))
        rows.append((_RETURN, 0, 0, _ERRNO | code))
    rows.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("=HBBI", *row) for row in rows)
    program = _Program(len(rows), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def refused(name: str) -> int:
    """The errno that a system call gives for arguments that no kernel accepts: for a check."""
    machine = ("x86_64", "aarch64").index(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(_NUMBERS[name][machine], -1, 0, 0, -1, 0, 0) == -1
    return ctypes.get_errno()
