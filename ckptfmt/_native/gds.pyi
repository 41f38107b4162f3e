"""GPUDirect Storage, opened at first use."""

from collections.abc import Sequence
from typing import final

def open_cufile(path: str) -> None:
    """Open the library and its driver.

    Raises
    ------
    OSError
        It cannot be opened, lacks functions, or has no driver in the kernel.
    """

@final
class CuFile:
    """Files known to libcufile, until this is closed or dies.

    Parameters
    ----------
    fds : sequence of int
        Opened for direct reads, each known to libcufile by nobody else; they stay open at least as
        long.

    Raises
    ------
    OSError
        It cannot read one of them: their file system has no part in GPUDirect Storage.
    RuntimeError
        The library has not been opened.
    """

    def __init__(self, fds: Sequence[int]) -> None: ...
    def close(self) -> None:
        """Have libcufile forget the files; only when nothing reads them."""
