"""What most people need: open a checkpoint, or load it in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt import telemetry
from ckptfmt.checkpoint import Checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from ckptfmt.engine import Progress
    from ckptfmt.options import LoadOptions
    from ckptfmt.rows import Rows


def load(
    path: str | os.PathLike[str],
    device: str | Mapping[str, str] = "cpu",
    names: str | Iterable[str] | None = None,
    dtype: object = None,
    verify: bool | None = None,
    mmap: bool = False,
    options: LoadOptions | None = None,
    progress: Progress | None = None,
    *,
    framework: str = "torch",
    no_split: Sequence[str] = (),
    rows: Rows | None = None,
    rank: int | None = None,
    tensor_parallel: int | None = None,
) -> dict[str, Any]:
    """Load tensors of a checkpoint.

    Parameters
    ----------
    path : path-like
        Folder written by :func:`ckptfmt.convert`; or one of plain safetensors, a file of that kind,
        or the index of several.
    device : str or mapping of str to str
        ``"cpu"``, ``"npu:0"``, ``"cuda:0"``, ``"auto"`` (all NPUs, or where torch_npu is not
        installed all GPUs, by free memory and sizes of modules), or
        devices by name of module: ``{"model.layers.0": "npu:0", "": "npu:1"}``, the longest name
        wins.
    names : str or iterable of str, optional
        Names or glob patterns; all if not given. Only the aligned ranges they need are read.
    dtype : str or torch.dtype, optional
        Cast floating tensors of 16 bits and more: ``"bf16"``, ``"fp16"``, ``"fp32"``. As stored if
        not given.
    verify : bool, optional
        Compare every byte read with its checksum. On if not given, except with `mmap` alone. Plain
        safetensors have none: True is an error there.
    mmap : bool
        Give private, writable views of the files without reading them. Changing one copies its
        pages; the files never change, and must not be changed by others.
    options : LoadOptions, optional
        How to read; else ``CKPTFMT_*`` in the environment, else the defaults.
    progress : callable, optional
        Called with bytes done and bytes in all, from this thread.
    framework : str
        ``"torch"`` or ``"numpy"``; devices take torch tensors only.
    no_split : sequence of str
        With ``"auto"``: patterns on names of modules that stay on one device, beside the layers.
    rows : mapping of str to (int, int), optional
        Of these tensors, by name, load only the rows from the first number up to and without the
        second: what ``tensor[start:stop]`` would be. Only the blocks of 1 MiB that these are in are
        read and verified.
    rank, tensor_parallel : int, optional
        Load what this rank of so many has, of a checkpoint that was cut for ranks or holds their
        state. Whole tensors if not given.

    Returns
    -------
    dict of str to Tensor or ndarray
        In order of position; dtypes and shapes as stored. Each is writable, owns its memory and
        gives it back when it dies; tied names share theirs.

    Raises
    ------
    NotFoundError, FormatError
        No checkpoint, or not a valid one. Nothing is returned.
    SourceError
        Plain safetensors are incomplete, or a header is wrong.
    ChecksumError
        Bytes are damaged; tensor, partition and offset are named.
    FileError
        A read failed; ``errno`` and ``filename`` are the system's.
    TensorNotFoundError
        A name does not exist.
    OptionError
        An option's value is none of those allowed, or a tensor has no such rows, or a checkpoint no
        such rank.
    LoadMismatchError
        The checkpoint holds the state of another number of ranks.
    DeviceError, MissingDependencyError
        A device failed or is not there. Nothing is returned, and nothing falls back to the CPU.
    OutOfMemoryError
        The tensors do not fit.
    """
    with telemetry.span("load"), Checkpoint(
        path, rank=rank, tensor_parallel=tensor_parallel, options=options
    ) as checkpoint:
        return checkpoint.load(
            names, device=device, dtype=dtype, verify=verify, mmap=mmap, framework=framework,
            progress=progress, no_split=no_split, rows=rows,
        )  # fmt: skip


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    rank: int | None = None,
    tensor_parallel: int | None = None,
    options: LoadOptions | None = None,
) -> Checkpoint:
    """Open a checkpoint, or plain safetensors: what they say is checked, no tensor is read.

    See :class:`Checkpoint`. Public as ``ckptfmt.open``.
    """
    return Checkpoint(path, rank=rank, tensor_parallel=tensor_parallel, options=options)
