"""From what a person names to a source."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

from ckptfmt import layout
from ckptfmt.errors import HubError, NotFoundError, OptionError
from ckptfmt.hub_address import HubAddress, parse_address
from ckptfmt.options import HubOptions
from ckptfmt.sources.base import Source
from ckptfmt.sources.folder import Weights, index_weights, refuse_missing, sidecars_below
from ckptfmt.sources.kinds import FOLDER_MARKS, KNOWN, file_kind, weights_in
from ckptfmt.sources.live import is_live, live_source


def open_source(source: Any, hub: HubOptions | None = None) -> Source:
    """Open what is to be converted.

    Parameters
    ----------
    source : path-like, torch.nn.Module, or dict of str to Tensor
        A folder, one weight file, the index of several, a format-1 checkpoint, a repository on a
        hub, or a live object.
    hub : HubOptions, optional
        How to get at a repository.

    Raises
    ------
    NotFoundError, SourceError
        It is not there, incomplete, or of no kind we read.
    """
    hub = hub or HubOptions()
    address = None if is_live(source) else hub_address(source, hub)
    if address is not None:
        from ckptfmt.sources.hub import open_hub  # noqa: PLC0415

        try:
            return open_hub(address, hub, partial(_open_weights, with_sidecars=False))
        except HubError as error:
            if hub.hub is None and "://" not in os.fspath(source):
                found = f"there is no local path {os.fspath(source)!r} either"
                error.hint = f"{error.hint}; {found}" if error.hint else found
            raise
    if hub.given():
        raise OptionError(
            f"{', '.join(hub.given())}: only for a repository on a hub, which the source is not"
        )
    if is_live(source):
        return live_source(source)
    return _open_path(os.fspath(source))


def _open_path(path: str) -> Source:
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


def hub_address(source: Any, hub: HubOptions) -> HubAddress | None:
    """The repository that a source names; None if it is a path.

    A path that is there is one, unless the hub is named.
    """
    path = os.fspath(source)
    if not isinstance(path, str):
        return None
    if hub.hub is None and "://" not in path and os.path.lexists(path):
        return None
    address = parse_address(path, hub.hub)
    if address is None or hub.revision is None:
        return address
    if address.revision not in (None, hub.revision):
        raise OptionError(
            f"{path}: the revision is {address.revision!r}, and {hub.revision!r} beside it"
        )
    return HubAddress(address.hub, address.repository, hub.revision)


def _open_weights(folder: str, weights: Weights, *, with_sidecars: bool) -> Source:
    opened = _open_kind(folder, weights.kind, weights.files)
    try:
        refuse_missing(folder, opened.tensors, weights.expected)
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
