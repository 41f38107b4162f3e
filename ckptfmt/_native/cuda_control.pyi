"""What is asked of CUDA's runtime outside the engine's loop."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, final

@final
class Cudart:
    """One device's runtime.

    Each method raises :class:`ckptfmt.errors.DeviceError` with the call, its code, name and text.

    Parameters
    ----------
    device : int
        Its number.
    guard : callable
        Makes the device current for a while, by ``torch.cuda.device``. torch goes back to the one
        before without waking it if it has not been used yet, which the runtime alone cannot.

    Raises
    ------
    RuntimeError
        The runtime has not been opened.
    """

    def __init__(self, device: int, guard: Callable[[], AbstractContextManager[Any]]) -> None: ...
    def versions(self) -> tuple[int, int]:
        """Of the runtime and of the newest that the driver serves: 12040 is 12.4."""
    def memory(self) -> tuple[int, int]:
        """Bytes free and in all."""
    def register(self, address: int, nbytes: int) -> None:
        """Pin host memory for copies from all devices."""
    def unregister(self, address: int) -> None:
        """Undo :meth:`register`."""
    def malloc_host(self, nbytes: int) -> int:
        """Pinned host memory of the runtime's own, for all devices; its address."""
    def free_host(self, address: int) -> None:
        """Undo :meth:`malloc_host`."""
    def copy(self, target: int, source: int, nbytes: int, *, to_device: bool) -> None:
        """Copy, and wait until it has landed."""
    def copy_async(self, target: int, source: int, nbytes: int) -> None:
        """Queue one copy to the device on a stream of its own, as the engine's are; wait for it."""
    @property
    def undrained(self) -> bool:
        """The latest :meth:`copy_async` could not be waited for and may still read its source."""
    def record(self, stream: int) -> int:
        """An event behind what a stream has been given so far; the caller destroys it."""
    def synchronize(self, stream: int) -> None:
        """Wait for everything a stream has been given."""
    def destroy_event(self, event: int) -> None:
        """Undo :meth:`record`."""
