"""A fake CUDA (tests/fakes/cuda): its runtime built once, a torch brought to use it.

The runtime is the simulated ACL runtime behind CUDA's functions; torch is the ordinary one for
CPUs, which gets CUDA tensors in that runtime's memory. So children run real torch on memory that
no processor may touch.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.acl import build as maker
from tests.helpers import simulator
from tests.helpers.simulator import ROOT

HERE = ROOT / "tests" / "fakes" / "cuda"
#: Of the simulator below: the last one that has no wishes about where copies begin.
BELOW = "9.1.0"
NAME = "libcudart.so.13"
CUFILE = "libcufile.so.0"


def build() -> Path:
    """The folder with the runtime and torch's part, built if it is not there yet.

    Raises
    ------
    simulator.BuildError
        There is no compiler for C or C++, or it has failed.
    """
    base = simulator.build(BELOW).parent
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(HERE.glob("*.c*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = base / f"cuda-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            work = base / f".{folder.name}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _build_runtime(base / "objects", work)
            _run(
                maker.compiler(), "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
                "-o", work / CUFILE, HERE / "cufile.c", work / NAME, "-Wl,-rpath,$ORIGIN",
            )  # fmt: skip
            _build_torch(work)
            work.rename(folder)
    return folder


def _build_runtime(objects: Path, folder: Path) -> None:
    _run(
        maker.compiler(), *maker.CFLAGS, f'-DACLSIM_CANN_VERSION="{BELOW}"',
        f"-DACLSIM_CANN_NUMBER={maker.number(BELOW)}", "-DACLSIM_CANN_STRICT=0", "-I", maker.HERE,
        "-shared", "-o", folder / NAME, HERE / "cudart.c", maker.HERE / "version.c",
        *sorted(objects.glob("*.o")), f"-Wl,-soname,{NAME}", "-Wl,-Bsymbolic", "-ldl", "-lm",
    )  # fmt: skip


def _build_torch(folder: Path) -> None:
    from torch.utils import cpp_extension

    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise simulator.BuildError("no C++ compiler: install one, or set CXX")
    paths = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    libraries = cpp_extension.library_paths()
    _run(
        compiler, "-std=c++20", "-O0", "-fPIC", "-shared", "-fvisibility=hidden", *paths,
        "-o", folder / "torch_cuda.so", HERE / "torch_cuda.cpp",
        *(f"-L{path}" for path in libraries), "-ltorch", "-ltorch_cpu", "-lc10",
        folder / NAME, "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        text = " ".join(map(str, command))
        raise simulator.BuildError(f"{text}\n{done.stderr[-4000:]}")


def environment(**settings: str | float | Path) -> dict[str, str]:
    """The environment of a child that is to run on it; settings as for the simulator."""
    given = simulator.environment(BELOW, **settings)
    return {**given, "LD_LIBRARY_PATH": str(build())}


class Stream:
    """As ``torch.cuda.Stream``, as far as loads and their tests need it: from a pool that stays."""

    pools: ClassVar[dict[int, list[int]]] = {}
    #: Devices that were gone back to from a stream of another one.
    woken: ClassVar[list[int]] = []

    def __init__(self, device: int | None = None, cuda_stream: int | None = None) -> None:
        self.device_index = device = _current() if device is None else device
        self.cuda_stream = cuda_stream or 0
        if cuda_stream is None:
            pool = self.pools.setdefault(device, [])
            while len(pool) < 4:
                handle = ctypes.c_void_p()
                with _device(device):
                    _call("cudaStreamCreateWithFlags", ctypes.byref(handle), 1)
                pool.append(handle.value or 0)
            pool.append(pool.pop(0))
            self.cuda_stream = pool[-1]

    def synchronize(self) -> None:
        with _device(self.device_index):
            _call("cudaStreamSynchronize", ctypes.c_void_p(self.cuda_stream))

    def wait_stream(self, other: Stream) -> None:
        """By waiting for all of it at once, which is more than it has to do."""
        other.synchronize()


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_runtime(), name)(*arguments)
    if code:
        raise RuntimeError(f"CUDA error: {_runtime().cudaGetErrorString(code).decode()}")


def _runtime() -> Any:
    library = ctypes.CDLL(NAME)
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library


def _current() -> int:
    device = ctypes.c_int()
    _call("cudaGetDevice", ctypes.byref(device))
    return device.value


@contextmanager
def _device(device: Any) -> Iterator[None]:
    """``torch.cuda.device``: it, too, wakes no device by going back to it."""
    number = device if isinstance(device, int) else int(str(device).partition(":")[2] or 0)
    before = _current()
    if before == number:
        yield
        return
    _call("cudaSetDevice", number)
    try:
        yield
    finally:
        _call("cudaSetDevice", before)


def pretend() -> Any:
    """Give this process's torch CUDA devices; the module."""
    import torch

    folder = build()
    ctypes.CDLL(str(folder / NAME), os.RTLD_NOW | os.RTLD_GLOBAL)
    backend = ctypes.CDLL(str(folder / "torch_cuda.so"))
    backend.torch_cuda_exchange_stream.restype = ctypes.c_void_p
    backend.torch_cuda_exchange_stream.argtypes = [ctypes.c_int, ctypes.c_void_p]
    current: dict[int, list[Stream]] = {}

    def count() -> int:
        found = ctypes.c_int()
        _call("cudaGetDeviceCount", ctypes.byref(found))
        return found.value

    def current_stream(device: Any = None) -> Stream:
        number = _current() if device is None else getattr(device, "index", device)
        return (current.get(number) or [Stream(number, 0)])[-1]

    @contextmanager
    def stream(given: Stream) -> Iterator[None]:
        where = _current()
        _call("cudaSetDevice", given.device_index)
        before = backend.torch_cuda_exchange_stream(given.device_index, given.cuda_stream)
        current.setdefault(given.device_index, []).append(given)
        try:
            yield
        finally:
            current[given.device_index].pop()
            backend.torch_cuda_exchange_stream(given.device_index, before)
            if where != given.device_index:  # as torch does, and so it wakes the device
                Stream.woken.append(where)
                _call("cudaSetDevice", where)

    def synchronize(device: Any = None) -> None:
        with _device(_current() if device is None else device):
            _call("cudaDeviceSynchronize")

    torch.version.cuda = "13.0"
    given = {
        "_lazy_init": lambda: None, "is_available": lambda: count() > 0, "device_count": count,
        "current_device": _current, "current_stream": current_stream, "stream": stream,
        "default_stream": lambda device=None: Stream(device, 0), "Stream": Stream,
        "device": _device, "synchronize": synchronize,
        "empty_cache": backend.torch_cuda_empty_cache,
        "set_device": lambda device: _call("cudaSetDevice", int(device)),
        "get_device_name": lambda device: f"Fake GPU {device}",
    }  # fmt: skip
    for name, value in given.items():
        setattr(torch.cuda, name, value)
    for device in range(count()):  # as after some use: streams are there
        Stream(device)
    return torch
