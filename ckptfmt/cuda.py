"""CUDA GPUs: torch brought up first, its own copy of the CUDA runtime bound beside it."""

from __future__ import annotations

from typing import Any

from ckptfmt import _core, cuda_library, dtypes
from ckptfmt.accelerator import TOLD, Accelerator
from ckptfmt.cuda_codes import code_in, hint_for
from ckptfmt.errors import DeviceError, MissingDependencyError


class Cuda(Accelerator):
    """One GPU."""

    kind = "cuda"
    stagings = ("A", "C", "D")
    keeps_pools = True
    runtime: _core.Cudart

    def _import_torch(self) -> Any:
        return import_torch_cuda(self.name)

    def _not_there(self) -> DeviceError:
        return DeviceError(
            f"{self.name}: torch finds {self.count} devices",
            hint="nvidia-smi lists them and the driver's version; CUDA_VISIBLE_DEVICES may hide "
            "some",
        )

    def _bind(self) -> None:
        self.library = cuda_library.bind()
        self.runtime = _core.Cudart(self.number, self.current)
        self.model = str(self._module.get_device_name(self.number))

    def _handle_of(self, stream: Any) -> int:
        return int(stream.cuda_stream)

    def _error(self, what: str, said: str, code: int) -> DeviceError:
        code = code or code_in(said)
        told = f"{what}: {said[:TOLD]}" + (f" (code {code})" if code else "")
        return DeviceError(told, code=code, hint=hint_for(code, said))

    def register(self, address: int, nbytes: int, letter: str) -> None:
        """By cudaHostRegister, for all devices."""
        self.runtime.register(address, nbytes)

    def takes_for_pinned(self, address: int) -> bool:
        """Registering has been enough since CUDA 4."""
        return True

    def versions(self) -> dict[str, str]:
        """Of the runtime, and the newest one that the driver serves."""
        runtime, driver = self.runtime.versions()
        return {"runtime": _version(runtime), "driver": _version(driver)}


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def import_torch_cuda(name: str) -> Any:
    """The torch module, if it was built for CUDA; `name` is the device it is wanted for."""
    torch = dtypes.import_torch()
    if torch.version.cuda is None:
        built = "ROCm" if getattr(torch.version, "hip", None) else "the CPU alone"
        raise MissingDependencyError(
            f"device {name!r} needs a torch for CUDA: torch {torch.__version__} is built for "
            f"{built}",
            hint="pytorch.org/get-started has the command that installs one for your driver",
        )
    return torch
