"""From what a person names to a source."""

from __future__ import annotations

import errno
import os
from typing import Any

from ckptfmt import layout
from ckptfmt.errors import NotFoundError, SourceError
from ckptfmt.sources.base import Source
from ckptfmt.sources.folder import Weights, find_weights, index_weights, sidecars_below
from ckptfmt.sources.live import is_live, live_source


def open_source(source: Any) -> Source:
    """Open what is to be converted.

    Parameters
    ----------
    source : path-like, torch.nn.Module, or dict of str to Tensor
        A folder, one weight file, an ``.index.json``, a format-1 checkpoint, or a live object.

    Raises
    ------
    NotFoundError, SourceError
        It is not there, incomplete, or of no kind we read.
    """
    if is_live(source):
        return live_source(source)
    path = os.fspath(source)
    if not os.path.exists(path):
        raise NotFoundError(
            errno.ENOENT, "no such source", path,
            hint="give a folder with weights, or a .safetensors, .bin, .pt or .pth file",
        )  # fmt: skip
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, layout.INDEX_FILE)):
            from ckptfmt.sources.stored import StoredSource  # noqa: PLC0415

            return StoredSource(path)
        return _open_weights(path, find_weights(path), with_sidecars=True)
    folder, name = os.path.split(path)
    folder = folder or "."
    if name.endswith(".index.json"):
        kind = "safetensors" if ".safetensors." in name else "torch"
        return _open_weights(folder, index_weights(folder, kind, name), with_sidecars=True)
    if name.endswith(".safetensors"):
        return _open_weights(folder, Weights("safetensors", (name,), {}), with_sidecars=False)
    if name.endswith((".bin", ".pt", ".pth")):
        return _open_weights(folder, Weights("torch", (name,), {}), with_sidecars=False)
    raise SourceError(
        f"{path}: of no kind that can be converted",
        hint="give a folder with weights, or a .safetensors, .bin, .pt or .pth file",
    )


def _open_weights(folder: str, weights: Weights, *, with_sidecars: bool) -> Source:
    opened: Source
    if weights.kind == "safetensors":
        from ckptfmt.sources.safetensors import SafetensorsSource  # noqa: PLC0415

        opened = SafetensorsSource(folder, weights.files)
    else:
        from ckptfmt.sources.torch_zip import TorchZipSource  # noqa: PLC0415

        opened = TorchZipSource(folder, weights.files)
    try:
        names = {name for spec in opened.tensors for name in spec.names}
        for name, file in weights.expected.items():
            if name not in names:
                raise SourceError(
                    f"{folder}: the index promises tensor {name!r} in {file}, which lacks it",
                    hint="the files are of different versions: fetch them again",
                )
        if with_sidecars:
            found = sidecars_below(folder, weights.files)
            opened.description.sidecars, opened.description.left_out = found
    except BaseException:
        opened.close()
        raise
    return opened
