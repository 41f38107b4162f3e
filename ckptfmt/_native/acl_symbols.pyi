"""The table of ACL's functions."""

def open_acl(path: str, *, loaded_only: bool = False) -> None:
    """Open a library and fill the table.

    Parameters
    ----------
    path : str
        Its path, or a name for the system's linker to look up.
    loaded_only : bool
        Take it only if this process has it already.

    Raises
    ------
    OSError
        It cannot be opened, or lacks functions that CANN has had since 7.0; the message says which.
    """
