"""Targets that cannot be written: what is there is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import ckptfmt
from ckptfmt import NotFoundError, TargetExistsError
from tests.helpers.handmade import snapshot
from tests.helpers.models import small_model
from tests.helpers.refusals import refused, refused_at_the_prompt


def _a_file(target: Path) -> None:
    target.write_text("mine")


def _a_folder(target: Path) -> None:
    target.mkdir()
    (target / "mine").write_text("mine")


def _a_checkpoint(target: Path) -> None:
    ckptfmt.convert(small_model(seed=3), target)


def _foreign_partial(target: Path) -> None:
    Path(f"{target}.partial").mkdir()
    Path(f"{target}.partial", "mine").write_text("mine")


TARGETS = {
    "a file": (_a_file, [], "the target is a file", ""),
    "a file, by force": (_a_file, ["--force"], "the target is a file", ""),
    "a folder": (_a_folder, [], "the target exists", ""),
    "a folder, by force": (_a_folder, ["--force"], "not a checkpoint", "remove the folder"),
    "a checkpoint": (_a_checkpoint, [], "the target exists", "--force replaces it"),
    "a foreign .partial": (_foreign_partial, [], "was not left by a conversion", "move it away"),
    "the same, by force": (_foreign_partial, ["--force"], "was not left by a conv", "move it away"),
}


@pytest.mark.parametrize("what", TARGETS)
def test_what_is_there_is_kept(what: str, tmp_path: Path, source: Path) -> None:
    make, options, message, hint = TARGETS[what]
    target = tmp_path / "x.ckpt"
    make(target)
    before = snapshot(tmp_path)
    refused(
        TargetExistsError, message,
        lambda: ckptfmt.convert(source, target, force=bool(options)), hint,
    )  # fmt: skip
    refused_at_the_prompt(["convert", source, target, *options], message)
    assert snapshot(tmp_path) == before


def test_a_target_in_a_folder_that_is_not_there(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "a" / "b" / "x.ckpt"
    refused(NotFoundError, "no such folder to", lambda: ckptfmt.convert(source, target), "mkdir")
    refused_at_the_prompt(["convert", source, target], f"mkdir -p {tmp_path / 'a' / 'b'}")


def test_the_folder_one_stands_in(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ckptfmt.convert(source, ".")
    assert len(ckptfmt.load(tmp_path / "here")) == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "source"]


def test_too_little_space_is_said_first(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([*real[:3], 100, 100, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    target = tmp_path / "x.ckpt"
    error = refused(
        ckptfmt.FileError, "needs 2.* MB, .* are free", lambda: ckptfmt.convert(source, target)
    )
    assert isinstance(error, ckptfmt.FileError)
    assert error.errno == errno.ENOSPC
    refused_at_the_prompt(["convert", source, target], "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
