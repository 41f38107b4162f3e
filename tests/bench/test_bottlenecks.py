"""Bench names what is slow, whatever that is, and knows what a setting will bring.

Each piece is slow on command: reads are paced, checksums go by tables, the link is simulated. What
a setting gains is predicted from the stages, then loaded with: both have to agree within a fifth.
Whatever else runs on the machine may come between the two: a run that disagrees is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import simulator
from tests.helpers.torch_npu import MISSING, PYTHON

pytestmark = [pytest.mark.slow, pytest.mark.alone]

Report = dict[str, Any]
Bench = Callable[..., Report]
RUNS = 5


def gain_of(report: Report, setting: str, value: str) -> dict[str, Any]:
    (found,) = [g for g in report["gains"] if (g["setting"], g["value"]) == (setting, value)]
    return dict(found)


def check_gain(report: Report, setting: str, value: str) -> dict[str, Any]:
    """The rate that was predicted is that of the loads, within a fifth."""
    gain = gain_of(report, setting, value)
    assert gain["measured_gain"] is not None, gain
    ratio = (1 + gain["predicted_gain"]) / (1 + gain["measured_gain"])
    assert 1 / 1.2 <= ratio <= 1.2, gain
    return gain


def repeat(bench: Callable[[], Report], check: Callable[[Report], None]) -> None:
    """Run until the check passes; the last one's failure is the test's."""
    for _ in range(RUNS - 1):
        try:
            check(bench())
        except AssertionError as error:
            print(error)
        else:
            return
    check(bench())


@pytest.mark.usefixtures("on_disk")
def test_slow_disk(bench: Bench, paced: Path) -> None:
    def check(report: Report) -> None:
        assert report["limit"]["id"] == "disk"
        assert 0.8 < report["limit"]["reached"] < 1.1
        assert report["limit"]["gb_s"] == pytest.approx(0.3, rel=0.15)
        check_gain(report, "verify", "off")

    given = {"LD_PRELOAD": paced, "CKPTFMT_IO": "pread", "PACED_GB_S": "0.3"}
    repeat(lambda: bench("--cold", "--repeat", "3", "--tune", **given), check)


@pytest.mark.usefixtures("on_disk")
def test_one_thread(bench: Bench, paced: Path) -> None:
    """A disk that answers late is fast enough for several threads, and one waits for it."""

    def check(report: Report) -> None:
        assert report["limit"]["id"] == "threads"
        assert "threads (1)" in report["limit"]["what"]
        assert check_gain(report, "threads", "4")["measured_gain"] > 1.5
        assert "CKPTFMT_THREADS" in report["best"]["environment"]
        assert report["best"]["gain"] > 1

    given = {"LD_PRELOAD": paced, "CKPTFMT_IO": "pread", "PACED_LATENCY_S": "0.01"}
    repeat(
        lambda: bench("--cold", "--repeat", "3", "--tune", CKPTFMT_THREADS="1", **given), check
    )


def test_slow_checksums(bench: Bench) -> None:
    def check(report: Report) -> None:
        assert report["machine"]["checksums"] == "table"
        assert report["limit"]["id"] == "checksum"
        assert "--no-verify" in report["limit"]["advice"]
        assert check_gain(report, "verify", "off")["measured_gain"] > 0.5

    given = {"CKPTFMT_CHECKSUM": "table", "CKPTFMT_THREADS": "2"}
    repeat(lambda: bench("--warm", "--repeat", "5", "--tune", **given), check)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_slow_link(bench: Bench) -> None:
    def check(report: Report) -> None:
        assert report["limit"]["id"] == "link"
        assert report["limit"]["gb_s"] == pytest.approx(0.2, rel=0.15)
        assert report["limit"]["reached"] > 0.7
        check_gain(report, "verify", "off")
        workers = report["timeline"]["workers"]
        kinds = {event[2] for worker in workers for event in worker["events"]}
        assert {"copy", "wait for device"} <= kinds

    given = simulator.environment("8.5.0", devices=1, memory="1G", h2d="0.2")
    repeat(
        lambda: bench("--warm", "--repeat", "3", "--tune", "--device", "npu:0", python=PYTHON,
                      **given),
        check,
    )  # fmt: skip
