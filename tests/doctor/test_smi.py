"""npu-smi's table, as chips and versions print it."""

from __future__ import annotations

import pytest

from ckptfmt.doctor.smi import parse
from tests.doctor.trees import TABLE_310B, table_910b

#: Two chips in each NPU, numbers of devices beside them, no power for the second.
TABLE_A3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1                 Version: 25.0.rc1                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 157.3       32                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3130 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | Warning       | -           32                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          65536/ 65536         |
+===========================+===============+====================================================+
"""
#: No HBM, numbers that are none of devices, no power.
TABLE_310P = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                                 Version: 24.1.rc2                             |
+-------------------------------+-----------------+----------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)   Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                |
+===============================+=================+==============================================+
| 32800   310P3                 | OK              | NA           48                0     / 0     |
| 0       0                     | 0000:85:00.0    | 0            1692 / 21527                    |
+===============================+=================+==============================================+
+-------------------------------+-----------------+----------------------------------------------+
| NPU     Chip                  | Process id      | Process name            | Process memory(MB) |
+===============================+=================+==============================================+
| No running processes found in NPU 32800                                                        |
"""


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (table_910b("910B2C", "910B2C", health="OK"),
         [("0", "910B2C", "OK", 44835, 65536), ("1", "910B2C", "OK", 44835, 65536)]),
        (TABLE_310B, [("0", "310B4", "Alarm", 11982, 15610)]),
        (TABLE_310P, [("32800", "310P3", "OK", 19835, 21527)]),
        (TABLE_A3, [("0", "910", "OK", 62406, 65536), ("0", "910", "Warning", 0, 65536)]),
    ],
    ids=["910B", "310B", "310P", "A3"],
)  # fmt: skip
def test_chips_by_the_titles_of_columns(table: str, expected: list[tuple[object, ...]]) -> None:
    found = []
    for chip in parse(table):
        memory = chip.memory()
        assert memory is not None
        megabytes = [nbytes >> 20 for nbytes in memory]
        found.append((chip.fields["NPU"], chip.name, chip.health, *megabytes))
    assert found == expected


def test_what_is_not_told_stays_as_it_is() -> None:
    (chip,) = parse(TABLE_310P)
    assert (chip.fields["Power"], chip.fields["Bus-Id"]) == ("NA", "0000:85:00.0")
    assert chip.fields["Device"] == "0"
    (board,) = parse(TABLE_310B.replace("3628 / 15610", "NA            "))
    assert board.memory() is None
    assert board.fields["Bus-Id"] == "NA"
    first, second = parse(TABLE_A3)
    assert (first.fields["Phy-ID"], second.fields["Phy-ID"]) == ("0", "1")
    assert second.fields["Power"] == "-"


@pytest.mark.parametrize(
    "text",
    ["", "dcmi module initialize failed. ret is -8005\n", "| a | b |\n", "|" * 99,
     TABLE_310B[: TABLE_310B.index("| 0 ")]],
)  # fmt: skip
def test_without_a_table_there_are_no_chips(text: str) -> None:
    assert parse(text) == []
