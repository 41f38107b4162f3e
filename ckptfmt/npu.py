"""Ascend NPUs: torch_npu brought up first, ACL bound beside it."""

from __future__ import annotations

from typing import Any

from ckptfmt import _core, acl_library, dtypes
from ckptfmt.accelerator import TOLD, Accelerator
from ckptfmt.acl_codes import code_in, hint_for
from ckptfmt.errors import DeviceError, MissingDependencyError

#: CANN's numbers for its packages (aclsysGetCANNVersion).
RUNTIME, DRIVER = 1, 7
#: Formats in which a tensor's bytes are in the order of its elements: NCHW, NHWC, ND, NCDHW.
PLAIN_FORMATS = {0, 1, 2, 30}


class Npu(Accelerator):
    """One NPU."""

    kind = "npu"
    runtime: _core.Acl

    def _import_torch(self) -> Any:
        return import_torch_npu(self.name)

    def _not_there(self) -> DeviceError:
        return DeviceError(
            f"{self.name}: torch_npu finds {self.count} devices",
            hint="npu-smi info lists them; ASCEND_RT_VISIBLE_DEVICES may hide some",
        )

    def _bind(self) -> None:
        acl_library.bind()
        self.runtime = _core.Acl(self.number)
        self.run_mode = self.runtime.run_mode()
        self.soc_name = self.runtime.soc_name()
        self.is_shared = self.run_mode == "RC"
        # Where host and device have one memory there is a better way than all others.
        self.stagings = ("E", "A", "B", "C", "D") if self.is_shared else ("A", "B", "C", "D")

    def _handle_of(self, stream: Any) -> int:
        return int(stream.npu_stream)

    def _error(self, what: str, said: str, code: int) -> DeviceError:
        code = code or code_in(said)
        return DeviceError(f"{what}: {said[:TOLD]}", code=code, hint=hint_for(code, said))

    def register(self, address: int, nbytes: int, letter: str) -> None:
        """A by aclrtHostRegisterV2, B by the older aclrtHostRegister."""
        name = "aclrtHostRegisterV2" if letter == "A" else "aclrtHostRegister"
        if not _core.acl_has(name) or not _core.acl_has("aclrtHostUnregister"):
            raise DeviceError(f"this CANN has no {name}", call=name)
        self.runtime.register(address, nbytes, v2=letter == "A")

    def takes_for_pinned(self, address: int) -> bool:
        """As aclrtPointerGetAttributes says, where CANN has it."""
        return self.runtime.is_host(address) is not False

    def versions(self) -> dict[str, str]:
        """What CANN and the driver say they are; empty where they do not."""
        return {"cann": self.runtime.version(RUNTIME), "driver": self.runtime.version(DRIVER)}


def is_plain(tensor: Any) -> bool:
    """Whether an NPU tensor's bytes are in the order of its elements.

    Operators may have brought it into a format of the device's own, such as ``FRACTAL_NZ``, which
    ``is_contiguous`` knows nothing of.
    """
    import torch_npu  # noqa: PLC0415

    return int(torch_npu.get_npu_format(tensor)) in PLAIN_FORMATS


def import_torch_npu(name: str) -> Any:
    """The torch module with ``torch.npu``; `name` is the device it is wanted for."""
    try:
        torch = dtypes.import_torch()
        if not hasattr(torch, "npu"):
            import torch_npu  # noqa: F401, PLC0415
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        places = ", ".join(acl_library.candidates())
        raise MissingDependencyError(
            f"device {name!r} needs torch_npu and CANN: {reason[-1]}; "
            f"CANN's library would be one of {places}",
            hint="pip install torch-npu in the version of your torch, install CANN, "
            "and run its set_env.sh in this shell",
        ) from error
    return torch
