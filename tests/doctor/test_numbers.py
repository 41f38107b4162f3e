"""Versions compared, and the tables that they are looked up in."""

from __future__ import annotations

import pytest

from ckptfmt.doctor import numbers, torch, versions


@pytest.mark.parametrize(
    ("text", "found"),
    [("8.1.RC1", (8, 1)), ("2.7.1.post8+cpu", (2, 7, 1)), ("25.0.rc1.1", (25, 0)), ("5.10.0+",
     (5, 10, 0)), ("6.8.0-60-generic", (6, 8, 0)), ("", ()), ("latest", ())],
)  # fmt: skip
def test_numbers_of_versions(text: str, found: tuple[int, ...]) -> None:
    assert numbers.numbers(text) == found


@pytest.mark.parametrize(
    ("version", "ranges", "answer"),
    [
        ("7.7.0.1.231", "[7.0.0,7.7.99]", True), ("7.8.0", "[7.0.0,7.7.99]", False),
        ("6.4.12", "[6.4.0,6.4.99],[7.0.0,8.9.9]", True), ("6.9.0", "[7.0.0,8.9.9]", False),
        ("7.1", "", None), ("", "[7.0.0,7.7.99]", None),
    ],
)  # fmt: skip
def test_ranges(version: str, ranges: str, answer: bool | None) -> None:
    assert numbers.in_range(version, ranges) is answer


def test_what_a_package_requires() -> None:
    wanted = ["torch==2.8.0", 'torch==9; extra == "x"', "numpy>=1.24", "not a requirement ("]
    assert numbers.requirement(wanted, "torch") == "==2.8.0"
    assert numbers.requirement(wanted, "triton") == ""
    assert numbers.requirement(None, "torch") == ""
    assert numbers.required(wanted) == [("torch", "==2.8.0"), ("numpy", ">=1.24")]
    assert numbers.is_in("2.8.0", "torch==2.8.0") is True
    assert numbers.is_in("2.8.0rc1", "torch>=2.1") is True
    assert numbers.is_in("nonsense", "torch>=2.1") is None


def test_the_tables_have_each_version_once_and_the_newest_first() -> None:
    seen = [version for _, text in versions.CANN_TORCH_NPU for version in text.split()]
    assert len(seen) == len(set(seen))
    trains = [numbers.train(cann) for cann, _ in versions.CANN_TORCH_NPU]
    assert trains == sorted(trains, reverse=True)
    releases = [row[0] for row in versions.VLLM_ASCEND]
    assert len(releases) == len(set(releases))
    known = {numbers.train(cann) for cann, _ in versions.CANN_TORCH_NPU}
    for _, first, below, cann, of_torch, of_npu in versions.VLLM_ASCEND:
        assert numbers.train(cann) in known
        assert numbers.numbers(first) < numbers.numbers(below)
        assert numbers.release(of_torch) == numbers.release(of_npu)
    for version, cann in versions.TRIED:
        assert torch.made_for(version) not in (None, cann)
    assert versions.DATE.count("-") == 2
    assert len(versions.SOURCES) >= 3


def test_every_torch_npu_of_the_tables_has_its_pythons() -> None:
    listed = {r for text, _, _ in versions.TORCH_NPU_PYTHON for r in text.split()}
    for _, text in versions.CANN_TORCH_NPU:
        for version in text.split():
            assert ".".join(version.split(".")[:2]) in listed | {"2.0"}
