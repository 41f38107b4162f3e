"""What an interrupted conversion had copied does not outlive the source's own copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptfmt
from ckptfmt.target import Target


def test_resume_drops_a_sidecar_that_the_source_no_longer_has(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "notes.txt").write_text("to be removed")
    target = tmp_path / "resumed.ckpt"

    def cut_off(self: Target) -> None:
        raise ckptfmt.FileError(5, "cannot be written", self.partial)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "write_sums", cut_off)
        with pytest.raises(ckptfmt.FileError):
            ckptfmt.convert(source, target)
    assert (tmp_path / "resumed.ckpt.partial" / "notes.txt").exists()

    (source / "notes.txt").unlink()
    report = ckptfmt.convert(source, target, resume=True)
    assert report.resumed == [0]
    assert not (target / "notes.txt").exists()
    assert ckptfmt.verify(target).problems == []
