"""Some rows of some tensors.

Pure. A part of a tensor is a tensor of its own to everything that comes after: the index and the
extents of the stored checkpoint are replaced by those of what is wanted.
"""

from __future__ import annotations

from math import prod
from operator import index as index_of
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ckptfmt import selection
from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError
from ckptfmt.index import Extent

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptfmt.extents import Extents
    from ckptfmt.index import Index, TensorEntry

    #: Names, and which rows of each: from the first, up to and without the last.
    Rows = Mapping[str, tuple[int, int]]


def cut(
    index: Index,
    extents: Extents,
    positions: Mapping[str, int],
    chosen: Collection[str],
    rows: Rows,
) -> tuple[Index, Extents, dict[str, int]]:
    """Make an index of what is wanted of a checkpoint.

    Parameters
    ----------
    index : Index
        Of the checkpoint.
    extents : Extents
        Its extents.
    positions : mapping of str to int
        All its names, and which tensor each means.
    chosen : collection of str
        The names to load.
    rows : mapping of str to (int, int)
        Of these tensors, so many rows.

    Returns
    -------
    index : Index
        The tensors that `rows` names have fewer rows. A tied one of which several names are chosen,
        with different rows, is as many tensors.
    extents : Extents
        Of that index.
    positions : dict of str to int
        The names, and which tensor each means now.

    Raises
    ------
    TensorNotFoundError
        A name does not exist.
    OptionError
        These are no rows of that tensor.
    """
    tensors, stored, ranges = parts(index, positions, chosen, rows)
    found = {
        name: p
        for p, entry in enumerate(tensors)
        for name in entry.names
        if positions.get(name) == stored[p]  # of another rank, it would be another tensor
    }
    partial = extents.cut(np.array(stored, np.int64), np.array(ranges, np.int64).reshape(-1, 2))
    return replace(index, tensors=tuple(tensors)), partial, found


def parts(
    index: Index, positions: Mapping[str, int], chosen: Collection[str], rows: Rows
) -> tuple[list[TensorEntry], list[int], list[tuple[int, int]]]:
    """What is wanted as tensors; which one each is of, and its first and last byte in that.

    The last is -1 for all of it.
    """
    groups: dict[int, list[tuple[TensorEntry, int, int]]] = {}
    for name in rows:
        position = positions.get(name)
        if position is None:
            raise selection.not_found(name, list(positions))
        _check(index.tensors[position], name, rows[name])
        if name in chosen and position not in groups:
            groups[position] = _parts(index.tensors[position], chosen, rows)
    tensors: list[TensorEntry] = []
    stored: list[int] = []
    ranges: list[tuple[int, int]] = []
    for position, entry in enumerate(index.tensors):
        for part, low, high in groups.get(position) or [(entry, 0, -1)]:
            tensors.append(part)
            stored.append(position)
            ranges.append((low, high))
    return tensors, stored, ranges


def _check(entry: TensorEntry, name: str, wanted: tuple[int, int]) -> None:
    row = DTYPES[entry.dtype]
    if not entry.shape:
        raise OptionError(f"rows of {name!r}: it is one element, with no dimension to cut")
    try:
        start, stop = map(index_of, wanted)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"rows of {name!r}: {wanted!r}, expected two numbers, as (0, {entry.shape[0]})"
        ) from error
    if not 0 <= start <= stop <= entry.shape[0]:
        raise OptionError(f"rows of {name!r}: {start}..{stop}, it has rows 0..{entry.shape[0]}")
    if prod(entry.shape[1:]) * row.bits % 8 or (row.pack > 1 and len(entry.shape) == 1):
        raise OptionError(
            f"rows of {name!r}: its rows of {row.name} {list(entry.shape)} are no whole bytes"
        )


def _parts(
    entry: TensorEntry, chosen: Collection[str], rows: Rows
) -> list[tuple[TensorEntry, int, int]]:
    """For each set of rows that is wanted: the tensor they are, and its first and last byte."""
    by_rows: dict[tuple[int, int], list[str]] = {}
    for name in sorted(entry.names, key=lambda name: name not in chosen):
        if name in chosen:
            start, stop = map(index_of, rows.get(name, (0, entry.shape[0])))
            names = by_rows.setdefault((start, stop), [])
        names.append(name)  # one that is not chosen goes with one that is
    row_nbytes = DTYPES[entry.dtype].nbytes(entry.shape[1:])
    return [
        (_part(entry, names, start, stop, row_nbytes), start * row_nbytes, stop * row_nbytes)
        for (start, stop), names in by_rows.items()
    ]


def _part(
    entry: TensorEntry, names: list[str], start: int, stop: int, row_nbytes: int
) -> TensorEntry:
    low, high, begin = start * row_nbytes, stop * row_nbytes, 0
    extents = []
    for extent in entry.extents:
        first, last = max(low - begin, 0), min(high - begin, extent.nbytes)
        if first < last:
            extents.append(Extent(extent.partition, extent.offset + first, last - first))
        begin += extent.nbytes
    shape = (stop - start, *entry.shape[1:])
    return replace(entry, names=tuple(names), shape=shape, extents=tuple(extents))
