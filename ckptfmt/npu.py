"""Ascend NPUs: torch_npu brought up first, ACL bound beside it; torch owns all device memory."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptfmt import _core, acl_library, dtypes
from ckptfmt.acl_codes import code_in, hint_for
from ckptfmt.errors import (
    CkptError,
    CleanupWarning,
    DeviceError,
    MissingDependencyError,
    OutOfMemoryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: CANN's numbers for its packages (aclsysGetCANNVersion).
RUNTIME, DRIVER = 1, 7
#: Formats in which a tensor's bytes are in the order of its elements: NCHW, NHWC, ND, NCDHW.
PLAIN_FORMATS = {0, 1, 2, 30}
#: Characters of what torch says; the rest is where in its source it said so.
TOLD = 400


class Npu:
    """One NPU, for one load, from the thread that made this object or on its behalf.

    Parameters
    ----------
    name : str
        ``"npu:0"``.

    Raises
    ------
    MissingDependencyError
        torch_npu is not installed, or cannot be imported.
    DeviceError
        There is no such device, or no library of CANN.
    """

    def __init__(self, name: str) -> None:
        began = time.perf_counter()
        self.name = name
        self.number = int(name.removeprefix("npu:"))
        self._torch = torch = import_torch_npu(name)
        with self._torch_calls("it cannot be brought up"):
            self.count = torch.npu.device_count() if torch.npu.is_available() else 0
        if self.number >= self.count:
            raise DeviceError(
                f"{name}: torch_npu finds {self.count} devices",
                hint="npu-smi info lists them; ASCEND_RT_VISIBLE_DEVICES may hide some",
            )
        # torch_npu initialises ACL with settings of its own, so it has to be the first.
        with self._torch_calls("it cannot be brought up"), torch.npu.device(self.number):
            self._stream = torch.npu.current_stream(self.number)
        acl_library.bind()
        self.acl = _core.Acl(self.number)
        self.run_mode = self.acl.run_mode()
        self.soc_name = self.acl.soc_name()
        self.start_seconds = time.perf_counter() - began

    @property
    def is_shared(self) -> bool:
        """Whether host and device have one memory, as on an Orange Pi (RC mode)."""
        return self.run_mode == "RC"

    def versions(self) -> dict[str, str]:
        """What CANN and the driver say they are; empty where they do not."""
        return {"cann": self.acl.version(RUNTIME), "driver": self.acl.version(DRIVER)}

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all, as the runtime counts them."""
        free, total = self.acl.memory()
        return int(free), int(total)

    def empty(self, nbytes: int) -> Any:
        """Bytes of device memory, allocated on the stream that was current when this was made."""
        torch = self._torch
        with self.allocating(nbytes), torch.npu.stream(self._stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.name)

    @contextmanager
    def allocating(self, nbytes: int) -> Iterator[None]:
        """What torch does within allocates so much; say what is free if it cannot be had."""
        with self._torch_calls(f"torch cannot allocate {nbytes} bytes"):
            try:
                yield
            except RuntimeError as error:
                # torch has a class for it since 2.5.
                known = isinstance(error, getattr(self._torch, "OutOfMemoryError", ()))
                if not known and "out of memory" not in str(error).lower():
                    raise
                free, total = self.memory()
                raise OutOfMemoryError(
                    f"{self.name}: {nbytes} bytes cannot be had, {free} of {total} are free",
                    hint="spread the model over several devices with device={...}, load by names, "
                    "or use stream()",
                ) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """Have torch work on the device: it need not go there and back with every call."""
        with self._torch_calls("it cannot be made current"), self._torch.npu.device(self.number):
            yield

    @contextmanager
    def _torch_calls(self, what: str) -> Iterator[None]:
        """What torch raises of the runtime within is told as a failure of the device."""
        try:
            yield
        except CkptError:
            raise
        except RuntimeError as error:
            said = " ".join(str(error).split())
            code = code_in(said)
            raise DeviceError(
                f"{self.name}: {what}: {said[:TOLD]}", code=code, hint=hint_for(code, said)
            ) from error

    @property
    def _handle(self) -> int:
        """The stream for the runtime. Reading it empties torch's queue, which may have failed."""
        with self._torch_calls("what torch was given before has failed"):
            return int(self._stream.npu_stream)

    @contextmanager
    def ordered(self) -> Iterator[int]:
        """An event behind all that torch has been given for the device so far.

        Memory that torch hands out may still be read by work queued before. The handle is taken
        now: earlier it would miss what was queued since.
        """
        event = self.acl.record(self._handle)
        try:
            yield event
        finally:
            try:
                self.acl.destroy_event(event)
            except DeviceError as error:
                warnings.warn(f"an event is never freed: {error}", CleanupWarning, stacklevel=3)

    def wait_for_torch(self) -> None:
        """Wait until all that torch has been given for the device is done."""
        self.acl.synchronize(self._handle)


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
