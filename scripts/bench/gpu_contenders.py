"""Loaders to be timed with a GPU: each gives a dict of tensors that are on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]
Prepare = Callable[[list[Path]], Callable[[], Tensors]]
DEVICE = "cuda:0"


@dataclass(frozen=True)
class GpuContender:
    """One way to load a model onto a GPU.

    Attributes
    ----------
    prepare : callable
        Given the model's files; imports what is needed and returns the function to be timed.
    files : str
        Which of the model's forms it reads: ``ckptfmt`` or ``safetensors``.
    states : str
        Where it takes part: ``cold``, ``warm`` or both.
    """

    prepare: Prepare
    files: str = "safetensors"
    states: str = "cold warm"


def _ckptfmt(**given: Any) -> Prepare:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        import ckptfmt

        folder = files[0].parent
        return lambda: ckptfmt.load(folder, device=DEVICE, **given)

    return prepare


def _load_file(backend: str) -> Prepare:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        from safetensors.torch import load_file

        given = {} if backend == "mmap" else {"backend": backend}

        def run() -> Tensors:
            found: Tensors = {}
            for file in files:
                found.update(load_file(file, device=DEVICE, **given))
            return found

        return run

    return prepare


def _fastsafetensors(files: list[Path]) -> Callable[[], Tensors]:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def run() -> Tensors:
        loader = SafeTensorsFileLoader(SingleGroup(), DEVICE, nogds=True)
        loader.add_filenames({0: [str(f) for f in files]})
        buffers = loader.copy_files_to_device()
        found = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        found[""] = (loader, buffers)  # their owners
        return found

    return run


def _runai(**environment: str) -> Prepare:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        os.environ.update(environment)
        from runai_model_streamer import SafetensorsStreamer

        def run() -> Tensors:
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([str(f) for f in files], device=DEVICE)
                return {n: t if t.is_cuda else t.to(DEVICE) for n, t in streamer.get_tensors()}

        return run

    return prepare


def _instanttensor(**environment: str) -> Prepare:
    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        os.environ.update(environment)
        from instanttensor import safe_open

        def run() -> Tensors:
            with safe_open([str(f) for f in files], framework="pt", device=0) as opened:
                return dict(opened.tensors())

        return run

    return prepare


def _link(n_streams: int, piece: int) -> Prepare:
    """What the link carries: pinned memory, larger than caches, to the device and nothing else."""

    def prepare(files: list[Path]) -> Callable[[], Tensors]:
        import torch

        total = sum(f.stat().st_size for f in files)
        source = torch.empty(min(total, 2 << 30), dtype=torch.uint8, pin_memory=True)
        source.fill_(1)
        streams = [torch.cuda.Stream() for _ in range(n_streams)]

        def run() -> Tensors:
            target = torch.empty(total, dtype=torch.uint8, device=DEVICE)
            for number, start in enumerate(range(0, total, piece)):
                at = start % len(source)
                part = target[start : start + piece]
                with torch.cuda.stream(streams[number % n_streams]):
                    part.copy_(source[at : at + len(part)], non_blocking=True)
            return {"all": target}

        return run

    return prepare


CONTENDERS: dict[str, GpuContender] = {
    "ceiling-link": GpuContender(_link(1, 1 << 30), "ckptfmt", states="warm"),
    "ceiling-link-2": GpuContender(_link(2, 32 << 20), "ckptfmt", states="warm"),
    "ckptfmt": GpuContender(_ckptfmt(), "ckptfmt"),
    "ckptfmt-unverified": GpuContender(_ckptfmt(verify=False), "ckptfmt"),
    "safetensors": GpuContender(_load_file("mmap")),
    "safetensors-pread": GpuContender(_load_file("pread")),
    "fastsafetensors": GpuContender(_fastsafetensors),
    "runai": GpuContender(_runai()),
    "runai-buffered": GpuContender(_runai(RUNAI_STREAMER_FS_STRATEGY="sync_buffered"),
                                   states="warm"),
    "instanttensor": GpuContender(_instanttensor()),
    "instanttensor-buffered": GpuContender(_instanttensor(INSTANTTENSOR_BACKEND="BUFFERED"),
                                           states="warm"),
}  # fmt: skip
