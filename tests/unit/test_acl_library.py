"""Where the runtime's library is looked for, and what is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptfmt import acl_library
from ckptfmt.acl_library import FOLDERS, HOMES, NAME, VARIABLE, candidates, is_stub


@pytest.fixture(autouse=True)
def no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (VARIABLE, *HOMES, "LD_LIBRARY_PATH"):
        monkeypatch.delenv(variable, raising=False)


def test_the_linker_first_then_where_cann_is_installed_by_default() -> None:
    found = candidates()
    assert found[0] == NAME
    assert found[1:] == [str(Path(folder).expanduser() / NAME) for folder in FOLDERS]


def test_homes_stand_before_default_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", "/opt/b")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/a")
    assert candidates()[:3] == [NAME, f"/opt/a/lib64/{NAME}", f"/opt/b/lib64/{NAME}"]


def test_what_the_linker_looks_at_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/a")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib:/opt/a/lib64:")
    assert f"/opt/a/lib64/{NAME}" not in candidates()
    assert candidates()[0] == NAME


@pytest.mark.parametrize("stub", ["devlib", "stub", "runtime/lib64/stub", "devlib/linux/x86_64"])
def test_a_stub_that_the_linker_would_take_is_passed_over(
    stub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/cann/{stub}:/cann/lib64")
    found = candidates()
    assert found[0] == f"/cann/lib64/{NAME}"
    assert NAME not in found
    assert not any(is_stub(path) for path in found)


@pytest.mark.parametrize("variable", HOMES)
def test_stubs_in_homes_are_passed_over(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/cann/devlib")
    assert not any("devlib" in path for path in candidates())


def test_one_that_is_named_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/a")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert candidates() == [str(tmp_path / NAME)]
    monkeypatch.setenv(VARIABLE, "/some/where.so")
    assert candidates() == ["/some/where.so"]


def test_what_was_bound_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acl_library, "_bound", "/was/there.so")
    assert acl_library.bind() == "/was/there.so"
