"""From what a person names to a source."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

from ckptfmt import layout
from ckptfmt.errors import HubError, NotFoundError, OptionError, SourceError
from ckptfmt.hub_address import HubAddress, parse_address
from ckptfmt.options import HubOptions
from ckptfmt.sources.base import Source
from ckptfmt.sources.folder import Weights, find_weights, index_weights, sidecars_below
from ckptfmt.sources.live import is_live, live_source


def open_source(source: Any, hub: HubOptions | None = None) -> Source:
    """Open what is to be converted.

    Parameters
    ----------
    source : path-like, torch.nn.Module, or dict of str to Tensor
        A folder, one weight file, an ``.index.json``, a format-1 checkpoint, a repository on a
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
