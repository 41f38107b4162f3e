"""Byte counts, read and written."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ckptfmt.errors import OptionError
from ckptfmt.units import format_nbytes, format_rate, parse_nbytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("4096", 4096), (" 4096 ", 4096), ("4096B", 4096), ("4096 b", 4096), (17, 17),
        ("64KiB", 65536), ("64k", 65536), ("64K", 65536), ("64kB", 64000), ("1m", 1 << 20),
        ("1MiB", 1 << 20), ("1MB", 10**6), ("4g", 4 << 30), ("4GiB", 4 << 30), ("4GB", 4 * 10**9),
        ("2TiB", 2 << 40), ("2TB", 2 * 10**12), ("2t", 2 << 40), ("1.5GiB", 3 << 29),
        ("0.5k", 512), ("1.0", 1), ("007", 7), ("1.07GB", 1_070_000_000), ("2.01kB", 2010),
        ("0.000001MB", 1), ("9007199254740993", 9007199254740993),
        ("8388608.5TiB", 16777217 << 39),
    ],
)  # fmt: skip
def test_a_count_is_read(text: str | int, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes


def test_decimals_are_exact() -> None:
    for hundredths in range(1, 2000):
        text = f"{hundredths // 100}.{hundredths % 100:02d}"
        for unit, factor in (("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12)):
            assert parse_nbytes(text + unit) == Fraction(text) * factor


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "+1", "1e3", "0x10", "1,5k", ".5k", "5.k", "1 000", "k", "GB", "1 G B",
        "4 apples", "4GBs", "4kk", "1.2.3", "nan", "inf", "\u0661", "\u00b2", "9" * 5000, "1\n2",
    ],
)  # fmt: skip
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a byte count") as caught:
        parse_nbytes(text)
    assert caught.value.hint == "write 4096, 64KiB, 512MB or 4GiB"


@pytest.mark.parametrize("text", ["0.5", "1.5b", "0.0001k", "1.0001kB", "0.3KiB"])
def test_a_part_of_a_byte_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a whole number of bytes"):
        parse_nbytes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1536, "1.54 kB"),
        (6_170_000_000, "6.17 GB"),
        (10**12, "1.00 TB"), (10**15, "1000.00 TB"), (-1500, "-1.50 kB"), (12.7, "12 B"),
        (10**6, "1.00 MB"),
    ],
)  # fmt: skip
def test_a_count_is_written(nbytes: float, text: str) -> None:
    assert format_nbytes(nbytes) == text


def test_a_rate_is_written() -> None:
    assert format_rate(2 * 10**9, 0.5) == "4.00 GB/s"
    assert format_rate(0, 1.0) == "0 B/s"


@pytest.mark.parametrize("seconds", [0.0, 1e-9, -1.0])
def test_no_time_gives_no_rate(seconds: float) -> None:
    assert format_rate(10**9, seconds) == "-"
