"""A checkpoint against its source: the same names, shapes, dtypes and bits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from ckptfmt.chosen import Chosen
from ckptfmt.errors import CkptError, FormatError
from ckptfmt.options import ConvertOptions
from ckptfmt.problems import Problem
from ckptfmt.sources import open_source
from ckptfmt.sources.stored import StoredSource
from ckptfmt.writer import CHUNK_NBYTES, read_as

if TYPE_CHECKING:
    from ckptfmt.write_plan import TensorSpec


def compare(path: str, source: str, problems: list[Problem]) -> int:
    """Compare tensor by tensor, in bounded memory; differences are added to `problems`.

    The cast and the filters are those that the checkpoint's provenance tells.

    Returns
    -------
    int
        Tensors compared.
    """
    stored = StoredSource(path)
    try:
        original = open_source(source)
        try:
            chosen = Chosen(original, _options(stored))
            return _compare(stored, chosen, source, problems)
        finally:
            original.close()
    finally:
        stored.close()


class _Given(msgspec.Struct):
    """What the provenance tells of the options; the format leaves it to the writer."""

    dtype: str = "keep"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def _options(stored: StoredSource) -> ConvertOptions:
    try:
        given = msgspec.convert(stored.files.index.provenance.get("options", {}), _Given)
    except msgspec.ValidationError as error:
        raise FormatError(
            f"{stored.files.path}: the options in the provenance cannot be read: {error}"
        ) from error
    return ConvertOptions(dtype=given.dtype, include=given.include, exclude=given.exclude)


def _compare(stored: StoredSource, chosen: Chosen, source: str, problems: list[Problem]) -> int:
    # States of ranks have the same names for different tensors.
    ours = {(spec.rank, n): i for i, spec in enumerate(stored.tensors) for n in spec.names}
    theirs = {(spec.rank, n): i for i, spec in enumerate(chosen.tensors) for n in spec.names}
    for _, name in theirs.keys() - ours.keys():
        problems.append(Problem("", f"is in {source}, not in the checkpoint", name))
    for _, name in ours.keys() - theirs.keys():
        problems.append(Problem("", f"is in the checkpoint, not in {source}", name))
    compared = 0
    for key in ours.keys() & theirs.keys():
        name, mine, other = key[1], ours[key], theirs[key]
        spec, wanted = stored.tensors[mine], chosen.tensors[other]
        compared += 1
        if (spec.dtype, spec.shape) != (wanted.dtype, wanted.shape):
            problems.append(Problem("", f"{_kind(spec)}, the source has {_kind(wanted)}", name))
            continue
        try:
            at = _first_difference(stored, mine, chosen, other)
        except CkptError as error:
            problems.append(Problem("", str(error), name))
            continue
        if at is not None:
            base = os.path.basename(source.rstrip("/"))
            problems.append(Problem("", f"differs from {base} at byte {at} of the tensor", name))
    return compared


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _first_difference(stored: StoredSource, mine: int, chosen: Chosen, theirs: int) -> int | None:
    spec = stored.tensors[mine]
    for start in range(0, spec.nbytes, CHUNK_NBYTES):
        nbytes = min(CHUNK_NBYTES, spec.nbytes - start)
        ours, wanted = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))
        stored.read_into(mine, start, ours)
        read_as(chosen, theirs, chosen.stored[theirs], start, wanted, spec.dtype)
        if ours != wanted:
            return start + next(i for i in range(nbytes) if ours[i] != wanted[i])
    return None
