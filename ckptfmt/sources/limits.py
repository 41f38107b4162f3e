"""What is taken from a source at most, and from where: checked before objects are made of it.

The limits are those of docs/format.md, section 4: what is over them could not be stored anyway.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.errors import SourceError, UnsupportedDtypeError, failing_as
from ckptfmt.index import MAX_DIMS, MAX_INDEX_NBYTES, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.sources.base import Description


def read_index(path: str, where: str = "") -> bytes:
    """Read a JSON index that has a name and another text for each tensor, or refuse it.

    Parameters
    ----------
    path : str
        The index.
    where : str
        What to call it, if that is not its path.

    Raises
    ------
    SourceError
        It is larger than an index may be, or lists more tensors.
    FileError
        It cannot be read.
    """
    refuse_irregular(path)
    with failing_as(path, "cannot be read"), open(path, "rb") as stream:
        refuse_large(where or path, os.fstat(stream.fileno()).st_size)
        data = stream.read(MAX_INDEX_NBYTES + 1)
    refuse_large(where or path, len(data))
    # Each tensor has at least two texts, so four quotes; counting them makes no objects.
    refuse_many(where or path, data.count(b'"') // 4)
    return data


def refuse_irregular(path: str) -> None:
    """Refuse what is no regular file, and may have no end; nothing there is for others to miss."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise SourceError(f"{path}: not a regular file")


def refuse_large(path: str, nbytes: int) -> None:
    """Refuse an index above the limit."""
    if nbytes > MAX_INDEX_NBYTES:
        raise SourceError(
            f"{path}: an index of {nbytes} bytes, at most {MAX_INDEX_NBYTES} can be stored"
        )


def refuse_many(path: str, tensors: int) -> None:
    """Refuse more tensors than a checkpoint can have."""
    if tensors > MAX_TENSORS:
        raise SourceError(f"{path}: lists {tensors} tensors, at most {MAX_TENSORS} can be stored")


def refuse_dimensions(path: str, name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes that no tensor has."""
    if len(shape) > MAX_DIMS or any(n < 0 for n in shape):
        text = f"{len(shape)} dimensions" if len(shape) > MAX_DIMS else f"the shape {list(shape)}"
        raise SourceError(f"{path}: tensor {name!r} has {text}")


def refuse_unsupported(description: Description, is_wanted: Callable[[str], bool]) -> list[str]:
    """What cannot be stored and is not wanted; a checkpoint that silently lacks more is a loss."""
    found = description.unsupported
    wanted = [name for name in found if is_wanted(name)]
    if wanted:
        kinds = sorted({found[name] for name in wanted})
        raise UnsupportedDtypeError(
            f"{len(wanted)} of the tensors cannot be stored, the first {wanted[0]!r}: "
            f"{', '.join(kinds[:8])}",
            hint="--exclude leaves tensors out, by name or glob",
        )
    return list(found)


def refuse_outside(folder: str, name: str) -> None:
    """Refuse a file that the format itself names and that is a link to somewhere else.

    A folder from elsewhere could so have any file of this machine copied into a checkpoint. Links
    of a hub's cache, from a snapshot to its blobs, stay within that cache and are followed.
    """
    path = os.path.join(folder, name)
    if os.path.isabs(name) or ".." in name.split("/"):
        raise SourceError(f"{folder}: names {name!r}, which is outside of it")
    real, top = os.path.realpath(path), os.path.realpath(folder)
    cache, found, _ = top.rpartition("/snapshots/")
    roots = [top, f"{cache}/blobs"] if found else [top]
    if not any(os.path.commonpath([real, root]) == root for root in roots):
        raise SourceError(
            f"{path}: a link to {real}, which is outside the folder",
            hint="put the file itself into the folder if it belongs to this checkpoint",
        )
