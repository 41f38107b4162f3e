"""What every refusal must be: in Python a typed error, at a prompt one line and a code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import ckptfmt
from ckptfmt.cli import main

#: What a caller who does not know our errors would catch.
BUILTINS = {
    ckptfmt.NotFoundError: FileNotFoundError,
    ckptfmt.TargetExistsError: FileExistsError,
    ckptfmt.FileError: OSError,
    ckptfmt.FormatError: ValueError,
    ckptfmt.UnsupportedVersionError: ValueError,
    ckptfmt.ChecksumError: ValueError,
    ckptfmt.SourceError: ValueError,
    ckptfmt.OptionError: ValueError,
    ckptfmt.ClosedError: ValueError,
    ckptfmt.LoadMismatchError: ValueError,
    ckptfmt.TensorNotFoundError: KeyError,
    ckptfmt.UnsupportedDtypeError: TypeError,
    ckptfmt.MissingDependencyError: ImportError,
}


def refused(
    kind: type[ckptfmt.CkptError], message: str, call: Callable[[], object], hint: str = ""
) -> ckptfmt.CkptError:
    """`call` raises exactly `kind`; its message and hint match the expressions."""
    with pytest.raises(kind, match=message) as caught:
        call()
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, BUILTINS[kind])
    assert isinstance(error, ckptfmt.CkptError)
    assert re.search(hint, error.hint or ""), error.hint
    if isinstance(error, ckptfmt.FileError):
        assert error.errno
        assert error.filename
    return error


def refused_at_the_prompt(args: list[str | Path], message: str, code: int = 1) -> str:
    """The command prints nothing on stdout and one line on stderr, and exits with `code`."""
    result = CliRunner().invoke(main, [*map(str, args)])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stdout == ""
    lines = [n for n in result.stderr.splitlines() if not n.startswith(("left out:", "filtered"))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ckptfmt: ")
    assert re.search(message, lines[0]), lines[0]
    assert result.exit_code == code
    return lines[0]
