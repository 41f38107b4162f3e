"""docs/simulator.md agrees with the code: settings, versions, the account, operators, files."""

from __future__ import annotations

import re

from tests.fakes.acl import build as maker
from tests.helpers.simulator import ROOT
from tests.simulator.conftest import Simulate

TEXT = (ROOT / "docs" / "simulator.md").read_text()
CODE = maker.HERE


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of a section's first table."""
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    rows = re.findall(r"^\| (.*) \|$", section[1], re.MULTILINE)
    return [[cell.strip() for cell in re.split(r" \| | \|$", row)] for row in rows[2:]]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_setting_is_listed() -> None:
    running, starting = (CODE / "settings.c").read_text().split("static int set_starting")
    given = re.compile(r'strcmp\(name, "(\w+)"\)')
    found = dict.fromkeys(given.findall(starting), "no") | dict.fromkeys(
        given.findall(running), "yes"
    )
    listed = {
        name.removeprefix("ACLSIM_"): "yes" if row[-1] == "yes" else "no"
        for row in table("Settings")
        for name in codes(row[0])
    }
    assert listed == found


def test_functions_are_in_the_row_of_their_version() -> None:
    rows = table("Versions of CANN")
    assert {row[0] for row in rows} == set(maker.FIRST.values())
    for version, changes in (row[:2] for row in rows):
        brought = changes.split(";")[0]
        for name in codes(brought):
            if "…" not in name:
                assert maker.FIRST[name] == version


def test_every_field_of_the_account_is_listed(simulate: Simulate) -> None:
    found = simulate().account()
    listed = {name for row in table("Account") for cell in row for name in codes(cell)}
    assert set(found) <= listed
    assert set(found["live"]) <= listed
    assert set(found["devices"][0]) <= listed


def test_every_operator_is_listed() -> None:
    known = set(
        re.findall(r'^ +\{"(\w+)", \w+, \d\}', (CODE / "operator.c").read_text(), re.MULTILINE)
    )
    sentence = re.search(r"those that tests need, by element and slow: (.*?)\.", TEXT, re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"\w+", sentence[1])) == known


def test_every_file_is_listed() -> None:
    listed = {name for row in table("How it works") for name in codes(row[0])}
    found = {path.stem for path in CODE.glob("*.c")} | {"acl_sim.h", "build.py"}
    assert listed == found
