"""Loaders to be timed: each gives a dict of tensors in private, writable CPU memory.

One that maps files says mmap. A contender is prepared (imports, what is outside the timer) and then
called; it names the files it reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptfmt.bench.contenders import CONTENDERS as THEIRS

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One way to load a model.

    Attributes
    ----------
    prepare : callable
        Given the model's files; imports what is needed and returns the function to be timed.
    files : str
        Which of the model's forms it reads: ``ckptfmt``, ``safetensors``, ``torch`` or ``tensors``.
    package : str
        What must be installed.
    private : bool
        Whether the tensors are copies of their own rather than views of mapped files.
    """

    prepare: Callable[[list[Path]], Callable[[], Tensors]]
    files: str
    package: str = ""
    private: bool = True


def _ckptfmt(**given: Any) -> Callable[[list[Path]], Callable[[], Tensors]]:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        import torch  # noqa: F401

        import ckptfmt

        folder = files[0].parent
        return lambda: ckptfmt.load(folder, **given)

    return prepare


def _ckptfmt_reads(reads: str) -> Callable[[list[Path]], Callable[[], Tensors]]:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        import ckptfmt

        return _ckptfmt(options=ckptfmt.LoadOptions(reads=reads))(files)  # type: ignore[arg-type]

    return prepare


def _torch_load(mmap: bool) -> Callable[[list[Path]], Callable[[], Tensors]]:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        import torch

        def run() -> Tensors:
            found: Tensors = {}
            for file in files:
                found.update(torch.load(file, weights_only=True, mmap=mmap))
            return found

        return run

    return prepare


def _theirs(name: str, **environment: str) -> Callable[[list[Path]], Callable[[], Tensors]]:
    """One of those that ``ckptfmt bench`` races against."""

    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        os.environ.update(environment)
        import torch  # noqa: F401

        return THEIRS[name].prepare([str(file) for file in files], "cpu")

    return prepare


def _tensorizer(files: list[Path]) -> Callable[[], Tensors]:
    from tensorizer import TensorDeserializer

    def run() -> Tensors:
        found: Tensors = {}
        for file in files:
            with TensorDeserializer(str(file), device="cpu", lazy_load=False) as opened:
                found.update(opened.items())
        return found

    return run


CONTENDERS: dict[str, Contender] = {
    "ckptfmt": Contender(_ckptfmt(), "ckptfmt"),
    "ckptfmt-unverified": Contender(_ckptfmt(verify=False), "ckptfmt"),
    "ckptfmt-folder": Contender(_ckptfmt(), "safetensors"),
    "ckptfmt-direct": Contender(_ckptfmt_reads("direct"), "ckptfmt"),
    "ckptfmt-buffered": Contender(_ckptfmt_reads("buffered"), "ckptfmt"),
    "ckptfmt-mmap": Contender(_ckptfmt(mmap=True), "ckptfmt", private=False),
    "safetensors": Contender(_theirs("safetensors"), "safetensors", private=False),
    "safetensors-clone": Contender(_theirs("safetensors-clone"), "safetensors"),
    "safetensors-pread": Contender(_theirs("safetensors-pread"), "safetensors"),
    "torch": Contender(_torch_load(mmap=False), "torch"),
    "torch-mmap": Contender(_torch_load(mmap=True), "torch", private=False),
    "runai": Contender(_theirs("runai"), "safetensors", "runai-model-streamer"),
    "runai-buffered": Contender(
        _theirs("runai", RUNAI_STREAMER_FS_STRATEGY="sync_buffered"), "safetensors",
        "runai-model-streamer",
    ),
    "fastsafetensors": Contender(_theirs("fastsafetensors"), "safetensors", "fastsafetensors"),
    "tensorizer": Contender(_tensorizer, "tensors", "tensorizer"),
}
