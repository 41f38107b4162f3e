"""Every exception this package raises on purpose, and its one warning.

Each derives from :class:`CkptError` and from the builtin a caller would expect, so both
``except CkptError`` and ``except OSError`` work. A message says where, what was found and what was
expected; ``hint`` says what to do next.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CkptError(Exception):
    """Base class: ``except CkptError`` catches everything ckptfmt raises on purpose.

    Parameters
    ----------
    message : str
        Where, what was found, what was expected.
    hint : str, optional
        The next step, for the person who reads the message.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        state = self.__dict__.copy()
        if isinstance(self, OSError):  # it keeps these outside of its dict
            state.update(errno=self.errno, strerror=self.strerror, filename=self.filename)
        return (_rebuild, (type(self), state, self.args))


def _rebuild(cls: type[CkptError], state: dict[str, object], args: tuple[object, ...]) -> CkptError:
    """Unpickle without calling ``__init__``: errors cross process borders with all their fields."""
    # By the base that made it: looked up on the class, MemoryError's would be found, and refuse.
    new = OSError.__new__ if issubclass(cls, OSError) else Exception.__new__
    error: CkptError = new(cls, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class FormatError(CkptError, ValueError):
    """A file of a checkpoint is not what ``docs/format.md`` says it must be."""


class UnsupportedVersionError(FormatError):
    """The checkpoint needs a newer ckptfmt, or a feature that this one does not know."""


class ChecksumError(FormatError):
    """Bytes differ from their checksum.

    Attributes
    ----------
    tensor : str or None
        First name of the tensor the bytes belong to.
    partition : str
        File the bytes were read from.
    offset, nbytes : int
        The block within that file, in bytes.
    """

    def __init__(
        self,
        message: str,
        *,
        tensor: str | None = None,
        partition: str = "",
        offset: int = 0,
        nbytes: int = 0,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.tensor = tensor
        self.partition = partition
        self.offset = offset
        self.nbytes = nbytes


class SourceError(CkptError, ValueError):
    """The checkpoint to convert is incomplete, contradicts itself or is of an unsupported kind."""


class TensorNotFoundError(CkptError, KeyError):
    """No tensor has this name. The message lists near matches."""


class UnsupportedDtypeError(CkptError, TypeError):
    """The framework has no such dtype, or the conversion cannot keep it."""


class LoadMismatchError(CkptError, ValueError):
    """Other tensors than wanted: names, shapes or dtypes, or those of another number of ranks."""


class OutOfMemoryError(CkptError, MemoryError):
    """The system gives no memory for the tensors."""


class ClosedError(CkptError, ValueError):
    """The checkpoint has been closed."""


class OptionError(CkptError, ValueError):
    """An option's value is not one of those allowed."""


class MissingDependencyError(CkptError, ImportError):
    """An optional package is needed for what was asked."""


class FileError(CkptError, OSError):
    """A system call on a file failed. ``errno`` and ``filename`` are the system's.

    Parameters
    ----------
    errno : int
        Number from :mod:`errno`.
    message : str
        What was being done; the system's text and the file are appended.
    filename : str
        The file or folder concerned.
    """

    def __init__(self, errno: int, message: str, filename: str, *, hint: str | None = None) -> None:
        text = f"{filename}: {message}: {os.strerror(errno)}"
        CkptError.__init__(self, text, hint=hint)
        self.errno = errno
        self.strerror = os.strerror(errno)
        self.filename = filename


class NotFoundError(FileError, FileNotFoundError):
    """The path does not exist."""


class TargetExistsError(FileError, FileExistsError):
    """The target of a conversion is already there, or another conversion is writing it."""


class HubError(CkptError, ConnectionError):
    """A hub cannot be reached, refuses, or sends other bytes than it publishes.

    Attributes
    ----------
    file : str
        The file concerned, as its repository names it; empty if it is none.
    status : int
        The HTTP status that the hub answered with; 0 if there is none.
    """

    def __init__(
        self, message: str, *, file: str = "", status: int = 0, hint: str | None = None
    ) -> None:
        CkptError.__init__(self, message, hint=hint)
        self.file = file
        self.status = status


class DeviceError(CkptError, RuntimeError):
    """An accelerator, its runtime or its library failed or is not there.

    Attributes
    ----------
    call : str
        The runtime's function that failed; empty if torch called it, or it came to no call.
    code : int
        What it returned.
    """

    def __init__(
        self, message: str, *, call: str = "", code: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.call = call
        self.code = code


class CleanupWarning(RuntimeWarning):
    """Something could not be released and may have leaked."""


@contextmanager
def failing_as(path: str, doing: str) -> Iterator[None]:
    """Turn a system's error into one that says which file and what was being done."""
    try:
        yield
    except CkptError:  # it says so already
        raise
    except OSError as error:
        code = error.errno or errno.EIO
        hints = {
            errno.ENOSPC: "the disk is full: free space; a conversion goes on with --resume",
            errno.EFBIG: "this file system limits files: use a smaller --partition-size",
        }
        raise FileError(code, doing, path, hint=hints.get(code)) from error
