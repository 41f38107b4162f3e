"""From what a person names to a source."""

from __future__ import annotations

import errno
import os
from typing import Any

from ckptfmt import layout
from ckptfmt.errors import NotFoundError, SourceError
from ckptfmt.sources.base import Source
from ckptfmt.sources.folder import Weights, index_weights, sidecars_below
from ckptfmt.sources.kinds import FOLDER_MARKS, KNOWN, file_kind, weights_in
from ckptfmt.sources.live import is_live, live_source


def open_source(source: Any) -> Source:
    """Open what is to be converted.

    Parameters
    ----------
    source : path-like, torch.nn.Module, or dict of str to Tensor
        A folder, one weight file, the index of several, a format-1 checkpoint, or a live object.

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
            errno.ENOENT, "no such source", path, hint=KNOWN,
        )  # fmt: skip
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, layout.INDEX_FILE)):
            from ckptfmt.sources.stored import StoredSource  # noqa: PLC0415

            return StoredSource(path)
        return _open_weights(path, weights_in(path), with_sidecars=True)
    folder, name = os.path.split(path)
    folder = folder or "."
    if name.endswith(".index.json"):
        kind = "safetensors" if ".safetensors." in name else "torch"
        return _open_weights(folder, index_weights(folder, kind, name), with_sidecars=True)
    for kind, mark in FOLDER_MARKS.items():
        if name == mark:
            return _open_weights(folder, Weights(kind, (name,), {}), with_sidecars=True)
    return _open_weights(folder, Weights(file_kind(path), (name,), {}), with_sidecars=False)


def _open_weights(folder: str, weights: Weights, *, with_sidecars: bool) -> Source:
    opened = _open_kind(folder, weights.kind, weights.files)
    try:
        names = {name for spec in opened.tensors for name in spec.names}
        for name, file in weights.expected.items():
            if name not in names:
                raise SourceError(
                    f"{folder}: the index promises tensor {name!r} in {file}, which lacks it",
                    hint="the files are of different versions: fetch them again",
                )
        if with_sidecars:
            taken = {file.name for file in opened.description.files}
            found = sidecars_below(folder, taken)
            opened.description.sidecars = found[0]
            opened.description.left_out += found[1]
    except BaseException:
        opened.close()
        raise
    return opened


def _open_kind(folder: str, kind: str, files: tuple[str, ...]) -> Source:
    opened: Source
    if kind == "safetensors":
        from ckptfmt.sources.safetensors import SafetensorsSource  # noqa: PLC0415

        opened = SafetensorsSource(folder, files)
    elif kind == "sllm":
        from ckptfmt.sources.sllm import SllmSource  # noqa: PLC0415

        opened = SllmSource(folder, files[0])
    elif kind == "dcp":
        from ckptfmt.sources.dcp import DcpSource  # noqa: PLC0415

        opened = DcpSource(folder)
    elif kind == "mindspore":
        from ckptfmt.sources.mindspore import MindsporeSource  # noqa: PLC0415

        opened = MindsporeSource(folder, files[0])
    elif kind == "gguf":
        from ckptfmt.sources.gguf import GgufSource  # noqa: PLC0415

        opened = GgufSource(folder, files)
    elif kind == "npz":
        from ckptfmt.sources.npz import NpzSource  # noqa: PLC0415

        opened = NpzSource(folder, files[0])
    else:
        from ckptfmt.sources.torch_zip import TorchZipSource  # noqa: PLC0415

        opened = TorchZipSource(folder, files)
    return opened
