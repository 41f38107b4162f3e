"""CUDA's runtime, opened at first use."""

def open_cuda(path: str, *, loaded_only: bool = False) -> None:
    """Open the library and look its functions up.

    Parameters
    ----------
    path : str
        A path, or a name for the system's linker.
    loaded_only : bool
        Only if this process has it already.

    Raises
    ------
    OSError
        It cannot be opened, or lacks functions.
    """
