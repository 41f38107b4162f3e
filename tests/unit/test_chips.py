"""What is concluded from a chip's name, and from the devices that a process may use."""

from __future__ import annotations

import pytest

from ckptfmt.chips import computes_bf16, physical_device


@pytest.mark.parametrize(
    "name",
    ["Ascend310", "Ascend310P1", "Ascend310P3", "Ascend310B1", "Ascend310B4", "Ascend910",
     "Ascend910A", "Ascend910B", "Ascend910ProA", "Ascend910ProB", "Ascend910PremiumA"],
)  # fmt: skip
def test_chips_without_bf16(name: str) -> None:
    assert not computes_bf16(name)


@pytest.mark.parametrize(
    "name",
    ["Ascend910B1", "Ascend910B2C", "Ascend910B3", "Ascend910B4-1", "Ascend910_9392",
     "Ascend950PR_9589", "", "something new"],
)  # fmt: skip
def test_chips_with_bf16_and_unknown_ones(name: str) -> None:
    assert computes_bf16(name)


@pytest.mark.parametrize(
    ("number", "visible", "physical"),
    [
        (3, None, 3), (0, "0", 0), (0, "2,5", 2), (1, "2,5", 5), (2, "2,5", None), (0, "", None),
        (1, "4,x,6", None), (0, "4,x,6", 4), (1, "5,3", None), (1, "5,5", None), (0, " 1", None),
        (1, "0, 1", None), (0, "-1", None),
    ],
)  # fmt: skip
def test_the_physical_device_behind_a_number(
    number: int, visible: str | None, physical: int | None
) -> None:
    assert physical_device(number, visible) == physical
