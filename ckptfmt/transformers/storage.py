"""Where a model's folder is: a path, or a name below a root."""

from __future__ import annotations

import errno
import os

from ckptfmt.errors import NotFoundError

#: The root, unless an argument names one. ServerlessLLM Store reads the same variable.
STORAGE = "STORAGE_PATH"


def find(path: str | os.PathLike[str], storage_path: str | os.PathLike[str] | None) -> str:
    """The folder that is meant.

    Parameters
    ----------
    path : path-like
        A folder, or its name below a root.
    storage_path : path-like or None
        The root. If not given, a folder of this very path comes first, then the root that
        ``STORAGE_PATH`` in the environment names.

    Raises
    ------
    NotFoundError
        There is none. The message says where it was looked for.
    """
    name = os.fspath(path)
    root = os.environ.get(STORAGE, "")
    if storage_path is not None:
        places = [os.path.join(os.fspath(storage_path), name)]
    else:
        places = [name, *([os.path.join(root, name)] if root else [])]
    for place in places:
        if os.path.exists(place):
            return place
    also = f", nor is {places[1]} ({STORAGE})" if len(places) > 1 else ""
    raise NotFoundError(
        errno.ENOENT, f"no such model{also}", places[0],
        hint="ckptfmt convert SOURCE TARGET makes one; a name on a hub has to be converted first",
    )
