"""docs/doctor.md agrees with the checks."""

from __future__ import annotations

import runpy

from ckptfmt.doctor.examination import CHECKS, SUBJECTS
from ckptfmt.doctor.findings import LEVELS, Report
from tests.helpers.documents import ROOT, codes, rows, section

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "doctor_table.py"))
DOCUMENT = ROOT / "docs" / "doctor.md"


def test_the_table_is_made_of_the_checks() -> None:
    _, _, rest = DOCUMENT.read_text().partition(SCRIPT["BEGIN"])
    shown, end, _ = rest.partition(SCRIPT["END"])
    assert end, f"{DOCUMENT} has no end of the table"
    assert shown == SCRIPT["table"](), "run: python scripts/doctor_table.py --write"


def test_every_check_says_what_it_is() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert len(SUBJECTS) == 9
    for check in CHECKS:
        subject, _, noun = check.id.partition(".")
        assert subject.isidentifier()
        assert noun.isidentifier()
        assert check.looked_at
        assert check.meaning.endswith(".")
        assert check.kind in ("", "npu", "cuda", "device")


def test_the_levels_are_those_explained() -> None:
    listed = [row["Level"] for row in rows(section(DOCUMENT, "How to read it")) if "Level" in row]
    assert set(listed) == set(LEVELS)


def test_the_keys_of_json_are_those_listed() -> None:
    table_of_keys = [row for row in rows(section(DOCUMENT, "How to read it")) if "Key" in row]
    listed = [name for row in table_of_keys for name in codes(row["Key"])]
    assert listed == list(Report("cpu", "", None).to_dict())
