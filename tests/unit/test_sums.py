"""The list of sums: read back by us and by ``sha256sum -c``, whatever the files are called."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ckptfmt.target import sums_line
from ckptfmt.verification import parse_sums

ODD_NAMES = [
    b"config.json", b"a b", b" leading", b"trailing ", b"*star", b"-dash", b"--check", b"#hash",
    b"back\\slash", b"\\leading", b"two\\\\", b"\\n", b"\\\\n", b"new\nline", b"\n", b"a\n\\n\\\n",
    b"tab\t", b"quote\"'", b"$HOME", b"(x) = y", b"SHA256 (x) = 0", b"\xff\xfe", b"\xc3\xbc",
    "日本語".encode(), b"0" * 64, b"0" * 64 + b"  x", b"~", b"sub dir/in\\side\n", b"x" * 255,
]  # fmt: skip
#: Older coreutils neither write nor read an escaped carriage return.
CARRIAGE_RETURNS = [b"carriage\rreturn", b"\r", b"end\r", b"\\r"]


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def coreutils_version() -> tuple[int, int]:
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("set-up: no sha256sum on this machine")
    text = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"sha256sum \(GNU coreutils\) (\d+)\.(\d+)", text)
    if found is None:
        pytest.skip("set-up: sha256sum is not that of GNU coreutils")
    return int(found[1]), int(found[2])


def make_files(folder: Path, names: list[bytes]) -> bytes:
    """Write a file under each name; the list of their sums."""
    lines = []
    for number, name in enumerate(names):
        data = b"%d" % number
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
        lines.append(sums_line(name, digest_of(data)))
    return b"".join(lines)


def names_to_test() -> list[bytes]:
    return ODD_NAMES + (CARRIAGE_RETURNS if coreutils_version() >= (9, 0) else [])


def test_sha256sum_accepts_the_list(tmp_path: Path) -> None:
    names = names_to_test()
    sums = make_files(tmp_path / "files", names)
    result = subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", "-"],
        cwd=tmp_path / "files", input=sums, capture_output=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_sha256sum_notices_a_change(tmp_path: Path) -> None:
    names = names_to_test()
    sums = make_files(tmp_path / "files", names)
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path / "files"), name), "ab") as stream:
            stream.write(b"x")
    result = subprocess.run(
        ["sha256sum", "-c", "-"], cwd=tmp_path / "files", input=sums, capture_output=True,
        check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert result.returncode == 1
    assert f"{len(names)} computed checksums did NOT match" in result.stderr.decode()


def test_the_lines_are_those_that_sha256sum_writes(tmp_path: Path) -> None:
    names = names_to_test()
    sums = make_files(tmp_path / "files", names)
    arguments = [os.fsdecode(name) for name in names]
    result = subprocess.run(
        ["sha256sum", "--", *arguments], cwd=tmp_path / "files", capture_output=True, check=True
    )
    assert result.stdout == sums


@pytest.mark.parametrize("name", ODD_NAMES + CARRIAGE_RETURNS, ids=repr)
def test_we_read_the_list_ourselves(name: bytes) -> None:
    digest = digest_of(name)
    line = sums_line(name, digest)
    assert line.count(b"\n") == 1
    assert parse_sums(line) == {name: digest}


def test_a_whole_list_is_read() -> None:
    wanted = {name: digest_of(name) for name in ODD_NAMES + CARRIAGE_RETURNS}
    assert parse_sums(b"".join(sums_line(n, d) for n, d in wanted.items())) == wanted


@pytest.mark.parametrize(
    "line",
    [
        b"", b"x", b"0" * 64, b"0" * 63 + b"  a", b"0" * 65 + b"  a", b"G" * 64 + b"  a",
        b"A" * 64 + b"  a", b"0" * 64 + b" a", b"0" * 64 + b" *a", b"# comment", b"\\",
        b"SHA256 (a) = " + b"0" * 64,
    ],
)  # fmt: skip
def test_lines_of_another_form_are_passed_over(line: bytes) -> None:
    good = sums_line(b"a", "1" * 64)
    assert parse_sums(line + b"\n" + good + line) == {b"a": "1" * 64}
