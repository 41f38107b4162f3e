"""What is asked of ACL outside the engine's loop."""

from typing import final

def acl_has(name: str) -> bool:
    """Whether the library has a function that only some versions of CANN have."""

@final
class Acl:
    """One device's runtime. Every method makes the device current in the calling thread.

    Each raises :class:`ckptfmt.errors.DeviceError` with the call, its code and the runtime's words.

    Parameters
    ----------
    device : int
        Its number.

    Raises
    ------
    RuntimeError
        ACL has not been opened.
    """

    def __init__(self, device: int) -> None: ...
    @staticmethod
    def initialize() -> None:
        """``aclInit``; having been initialised already is success. Never before torch_npu."""
    def run_mode(self) -> str:
        """``"EP"``, or ``"RC"`` where host and device are one machine with one memory."""
    def soc_name(self) -> str:
        """The chip's name."""
    def version(self, package: int) -> str:
        """Version of a package of CANN by its number, empty if it does not say."""
    def memory(self) -> tuple[int, int]:
        """Bytes free and in all."""
    def register(self, address: int, nbytes: int, *, v2: bool) -> None:
        """Register host memory, whole pages, for asynchronous copies."""
    def unregister(self, address: int) -> None:
        """Undo :meth:`register`."""
    def is_host(self, address: int) -> bool | None:
        """Whether the runtime takes an address for pinned host memory; None if it cannot tell."""
    def malloc_host(self, nbytes: int) -> int:
        """Pinned host memory of the runtime's own; its address."""
    def free_host(self, address: int) -> None:
        """Undo :meth:`malloc_host`."""
    def copy(self, target: int, source: int, nbytes: int, *, to_device: bool) -> None:
        """Copy and wait; ordered against no stream."""
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
