"""Other loaders of the same tensors, from safetensors files, to race against."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: What is timed: gives tensors by name.
    Load = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to load safetensors files.

    Attributes
    ----------
    what : str
        For a person.
    prepare : callable
        Given files and a device; imports what is needed and gives what is to be timed.
    module : str
        That must be installed.
    package : str
        That brings it.
    """

    what: str
    prepare: Callable[[Sequence[str], str], Load]
    module: str
    package: str


def _load_file(backend: str) -> Callable[[Sequence[str], str], Load]:
    def prepare(files: Sequence[str], device: str) -> Load:
        from safetensors.torch import load_file  # noqa: PLC0415

        given: dict[str, Any] = {} if backend == "mmap" else {"backend": backend}

        def run() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for file in files:
                found.update(load_file(file, device=device, **given))
            return found

        return run

    return prepare


def _open_and_clone(files: Sequence[str], device: str) -> Load:
    from safetensors import safe_open  # noqa: PLC0415

    def run() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for file in files:
            with safe_open(file, "pt", device=device) as opened:
                for name in opened.keys():  # noqa: SIM118
                    tensor = opened.get_tensor(name)
                    found[name] = tensor.clone() if device == "cpu" else tensor
        return found

    return run


def _runai(files: Sequence[str], device: str) -> Load:
    from runai_model_streamer import SafetensorsStreamer  # noqa: PLC0415

    def run() -> dict[str, Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(list(files))
            return {name: tensor.to(device) for name, tensor in streamer.get_tensors()}

    return run


def _fastsafetensors(files: Sequence[str], device: str) -> Load:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup  # noqa: PLC0415

    keep: list[Any] = []

    def run() -> dict[str, Any]:
        while keep:  # its memory is freed by nothing else; the tensors in it are gone by now
            keep.pop().close()
        loader = SafeTensorsFileLoader(SingleGroup(), device, nogds=True)
        loader.add_filenames({0: list(files)})
        buffers = loader.copy_files_to_device()
        keep.extend((loader, buffers))
        return {name: buffers.get_tensor(name) for name in loader.get_keys()}

    return run


CONTENDERS = {
    "safetensors": Contender(
        "safetensors.torch.load_file", _load_file("mmap"), "safetensors", "safetensors"
    ),
    "safetensors-pread": Contender(
        "safetensors.torch.load_file, its pread back end", _load_file("pread"), "safetensors",
        "safetensors",
    ),
    "safetensors-clone": Contender(
        "safetensors.safe_open, each tensor cloned", _open_and_clone, "safetensors", "safetensors"
    ),
    "runai": Contender(
        "Run:ai Model Streamer", _runai, "runai_model_streamer", "runai-model-streamer"
    ),
    "fastsafetensors": Contender(
        "fastsafetensors, without GDS", _fastsafetensors, "fastsafetensors", "fastsafetensors"
    ),
}  # fmt: skip


def chosen(names: Sequence[str]) -> dict[str, Contender]:
    """Contenders by name, each installed.

    Raises
    ------
    OptionError
        There is no such contender.
    MissingDependencyError
        Its package is not installed.
    """
    found = {}
    for name in names:
        if name not in CONTENDERS:
            raise OptionError(f"--vs {name}: expected some of {', '.join(CONTENDERS)}")
        contender = CONTENDERS[name]
        for module, package in (("torch", "torch"), (contender.module, contender.package)):
            if importlib.util.find_spec(module) is None:
                raise MissingDependencyError(
                    f"--vs {name} needs {package}, which is not installed",
                    hint=f"pip install {package}",
                )
        found[name] = contender
    return found
