"""The same tensors as safetensors files, which other loaders read."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt.errors import OptionError, failing_as
from ckptfmt.exporting import export
from ckptfmt.sources.kinds import weights_in
from ckptfmt.sources.safetensors import SafetensorsSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptfmt.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Form:
    """Files with a checkpoint's tensors.

    Attributes
    ----------
    files : list of str
        Their paths.
    nbytes : int
        Of the tensors in them: tied ones may be there several times.
    """

    files: list[str]
    nbytes: int


@contextmanager
def safetensors_form(checkpoint: Checkpoint, source: str | None) -> Iterator[Form]:
    """Files that are given, or that are exported beside the checkpoint and removed.

    Raises
    ------
    OptionError
        The files that are given are no safetensors, or hold other tensors.
    FileError
        There is no place to export to.
    """
    if source is not None:
        yield _checked(checkpoint, source)
        return
    beside = os.path.dirname(os.path.abspath(checkpoint.path))
    with failing_as(beside, "no place to export safetensors to, see --source"):
        parent = tempfile.mkdtemp(prefix=".bench-", dir=beside)
    try:
        folder = os.path.join(parent, "safetensors")
        export(checkpoint.path, folder)
        yield _checked(checkpoint, folder)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _checked(checkpoint: Checkpoint, folder: str) -> Form:
    weights = weights_in(folder)
    if weights.kind != "safetensors":
        raise OptionError(f"--source {folder}: holds weights of {weights.kind}, not safetensors")
    with closing(SafetensorsSource(folder, weights.files)) as opened:
        theirs = {n: (t.dtype, tuple(t.shape)) for t in opened.tensors for n in t.names}
        nbytes = sum(tensor.nbytes for tensor in opened.tensors)
    ours = {n: (t.dtype, tuple(t.shape)) for t in checkpoint.index.tensors for n in t.names}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise OptionError(
                f"--source {folder}: tensor {name!r} is {_told(theirs.get(name))} there, and "
                f"{_told(ours.get(name))} in {checkpoint.path}",
                hint="without --source the checkpoint itself is exported",
            )
    return Form([os.path.join(folder, file) for file in weights.files], nbytes)


def _told(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if entry is None else f"{entry[0]} {list(entry[1])}"
