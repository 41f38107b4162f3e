"""Opening a runtime's library: the first of several places that has it whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def open_first(paths: Iterable[str], open_library: Callable[[str], None]) -> tuple[str, str]:
    """Try paths in order.

    Parameters
    ----------
    paths : iterable of str
        A bare name is looked up by the system's linker.
    open_library : callable
        Raises OSError if one is not there or lacks functions.

    Returns
    -------
    path : str
        What was opened; empty if nothing was.
    tried : str
        Then what failed how, of the linker and of files that are there; and all places.
    """
    reasons: dict[str, None] = {}
    places = []
    for path in paths:
        try:
            open_library(path)
        except OSError as error:
            places.append(path)
            if os.path.sep not in path or os.path.exists(path):
                reasons[str(error)] = None
        else:
            return path, ""
    return "", f"{'; '.join(reasons)}; looked in {', '.join(places)}"
