"""A device for loads: torch owns its memory, our own streams of its runtime fill it."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ckptfmt.errors import CkptError, CleanupWarning, DeviceError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptfmt._core import Acl, Cudart

#: Characters of what torch says; the rest is where in its source it said so.
TOLD = 400


class Accelerator(ABC):
    """One device, for one load, from the thread that made this object or on its behalf.

    Parameters
    ----------
    name : str
        ``"npu:0"``.

    Attributes
    ----------
    number, count : int
        Its own, and how many there are.
    runtime : Acl or Cudart
        What moves bytes to it.
    start_seconds : float
        For bringing it up.

    Raises
    ------
    MissingDependencyError
        What torch needs for it is not installed, or cannot be imported.
    DeviceError
        There is no such device, or no library of its runtime.
    """

    kind: ClassVar[Literal["npu", "cuda"]]
    #: Ways to stage, the best first, of ``staging.WHAT``.
    stagings: tuple[str, ...]
    #: Whether host and device have one memory, as on an Orange Pi (RC mode).
    is_shared = False
    #: Whether registered memory is kept for later loads of the process.
    keeps_pools = False
    runtime: Acl | Cudart

    def __init__(self, name: str) -> None:
        began = time.perf_counter()
        self.name = name
        self.number = int(name.removeprefix(f"{self.kind}:"))
        self._torch = torch = self._import_torch()
        self._module = module = getattr(torch, self.kind)
        with self._torch_calls("it cannot be brought up"):
            self.count = module.device_count() if module.is_available() else 0
        if self.number >= self.count:
            raise self._not_there()
        # torch initialises the runtime with settings of its own, so it has to be the first.
        with self._torch_calls("it cannot be brought up"), module.device(self.number):
            self._stream = module.current_stream(self.number)
        self._bind()
        self.start_seconds = time.perf_counter() - began

    @abstractmethod
    def _import_torch(self) -> Any:
        """The torch module, with what it needs for this kind of device."""

    @abstractmethod
    def _not_there(self) -> DeviceError:
        """The error if there is no device of this number."""

    @abstractmethod
    def _bind(self) -> None:
        """Open the runtime's library beside torch."""

    @abstractmethod
    def _handle_of(self, stream: Any) -> int:
        """A stream of torch's for the runtime."""

    @abstractmethod
    def _error(self, what: str, said: str, code: int) -> DeviceError:
        """The error for what torch says of the runtime; its code, or 0 if that is unknown."""

    @abstractmethod
    def register(self, address: int, nbytes: int, letter: str) -> None:
        """Register host memory for asynchronous copies, as the way to stage `letter` does."""

    @abstractmethod
    def takes_for_pinned(self, address: int) -> bool:
        """Whether the runtime takes registered memory for pinned, or does not tell."""

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all, as the runtime counts them."""
        free, total = self.runtime.memory()
        return int(free), int(total)

    def empty(self, nbytes: int) -> Any:
        """Bytes of device memory, allocated on the stream that was current when this was made."""
        return self.empties([nbytes])[0]

    def empties(self, sizes: Iterable[int]) -> list[Any]:
        """Several of them; going to the stream and back takes longer than allocating."""
        torch, found = self._torch, []
        # The device first: going back from a stream of another one wakes that.
        with self.current(), self._module.stream(self._stream):
            for nbytes in sizes:
                with self.allocating(nbytes):
                    found.append(torch.empty(nbytes, dtype=torch.uint8, device=self.name))
        return found

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
        with self._torch_calls("it cannot be made current"), self._module.device(self.number):
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
            code = int(getattr(error, "error_code", 0))  # torch has it since 2.9, not of all
            raise self._error(f"{self.name}: {what}", said, code) from error

    @property
    def _handle(self) -> int:
        """The stream for the runtime. Reading it empties torch's queue, which may have failed."""
        with self._torch_calls("what torch was given before has failed"):
            return self._handle_of(self._stream)

    @contextmanager
    def ordered(self) -> Iterator[int]:
        """An event behind all that torch has been given for the device so far.

        Memory that torch hands out may still be read by work queued before. The handle is taken
        now: earlier it would miss what was queued since.
        """
        event = self.runtime.record(self._handle)
        try:
            yield event
        finally:
            try:
                self.runtime.destroy_event(event)
            except DeviceError as error:
                warnings.warn(f"an event is never freed: {error}", CleanupWarning, stacklevel=3)

    def wait_for_torch(self) -> None:
        """Wait until all that torch has been given for the device is done."""
        self.runtime.synchronize(self._handle)
