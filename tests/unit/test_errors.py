"""Exceptions: two bases each, one message, and all fields across process borders."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from ckptfmt import errors
from ckptfmt.errors import (
    ChecksumError,
    CkptError,
    FileError,
    FormatError,
    HubError,
    NotFoundError,
    TargetExistsError,
)

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CkptError) and kind is not CkptError
]
MADE = [
    *(kind("what: found, expected", hint="do this")
      for kind in ALL if not issubclass(kind, FileError)),
    *(kind(errno.ENOSPC, "cannot be written", "a/b", hint="free space")
      for kind in ALL if issubclass(kind, FileError)),
    HubError("m", file="model.safetensors", status=503, hint="h"),
    ChecksumError("m", tensor="t", partition="p", offset=4096, nbytes=7, hint="h"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_ours_and_a_builtin(kind: type[CkptError]) -> None:
    builtin = [b for b in kind.__mro__ if b.__module__ == "builtins"]
    assert builtin[0] not in (Exception, BaseException, object)
    assert kind.__doc__


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_nothing_is_lost_between_processes(error: CkptError, through: type) -> None:
    found = through(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert found.args == error.args
    assert found.hint == error.hint
    if isinstance(error, OSError):
        assert (found.errno, found.filename) == (error.errno, error.filename)


def test_a_failed_system_call_keeps_its_number_and_file() -> None:
    error = FileError(errno.EACCES, "cannot be opened", "m.ckpt/x", hint="chmod")
    assert (error.errno, error.filename) == (errno.EACCES, "m.ckpt/x")
    assert str(error) == "m.ckpt/x: cannot be opened: Permission denied"
    assert isinstance(error, OSError)


def test_builtin_handlers_catch_ours() -> None:
    with pytest.raises(FileNotFoundError):
        raise NotFoundError(errno.ENOENT, "no such checkpoint", "x")
    with pytest.raises(FileExistsError):
        raise TargetExistsError(errno.EEXIST, "the target exists", "x")
    with pytest.raises(ValueError, match="bad"):
        raise FormatError("bad")


def test_the_warning_is_no_error() -> None:
    assert issubclass(errors.CleanupWarning, RuntimeWarning)
    assert not issubclass(errors.CleanupWarning, CkptError)
