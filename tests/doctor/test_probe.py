"""What probes make of what they find: here, and in attempts as other machines have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptfmt import _core, input_file
from ckptfmt.doctor import attempt
from ckptfmt.doctor.attempt import Attempt, steps_in
from ckptfmt.doctor.examination import run
from ckptfmt.doctor.findings import Finding

UP = {
    "name": "npu:0", "physical": 3, "soc": "Ascend910B3", "run_mode": "EP", "cann": "8.1.RC1",
    "driver": "25.0.rc1", "library": "/cann/lib64/libascendcl.so", "total_nbytes": 64 * 10**9,
    "free_nbytes": 60 * 10**9, "start_seconds": 2.84,
}  # fmt: skip
IMPORTED = {"torch": "2.5.1"}
STAGED = {"letter": "B", "text": "B: own huge pages", "file": "/x"}
LINKED = {"nbytes": 64 << 20, "seconds": 0.003}
Steps = dict[str, dict[str, Any]]


def examined(found: Attempt, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Finding]:
    monkeypatch.setattr(attempt, "bring_up", lambda device, checkpoint: found)
    return {f.check: f for f in run("npu:0", **options).findings}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    names = ("import", "library", "device", "staging", "link")
    return {name: found[f"probe.{name}"].level for name in names}


WORKING: Steps = {"import": IMPORTED, "device": UP, "staging": STAGED, "link": LINKED}


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({}, "OK SKIP OK OK OK",
         {"device": "npu:0 is Ascend910B3, physical device 3, EP mode, CANN 8.1.RC1, driver "
          "25.0.rc1, /cann/lib64/libascendcl.so; 60.00 GB of 64.00 GB free; device start-up 2.8 s "
          "(not loading time)",
          "staging": "strategy B: own huge pages; a sector came back as it was sent",
          "link": "22.37 GB/s"}),
        ({"link": {"nbytes": 64 << 20, "seconds": 0.01}}, "OK SKIP OK OK WARN",
         {"link": "6.71 GB/s; Ascend910B3 takes some 20 GB/s"}),
        ({"link": {"nbytes": 64 << 20, "seconds": 0.01}, "device": {**UP, "soc": "Ascend310P3"}},
         "OK SKIP OK OK OK", {"link": "6.71 GB/s"}),
        ({"link": {"error": "507899", "hint": ""}}, "OK SKIP OK OK FAIL", {"link": "507899"}),
        ({"staging": {"letter": "D", "text": "D: (not C: no)", "file": ""}}, "OK SKIP OK WARN OK",
         {"staging": "strategy D: (not C: no)"}),
        ({"staging": {"error": "came back different", "hint": "it corrupts"}, "link": None},
         "OK SKIP OK FAIL SKIP", {"staging": "came back different"}),
        ({"device": {"error": "107001", "hint": "npu-smi"}, "staging": None, "link": None},
         "OK SKIP FAIL SKIP SKIP", {"device": "107001"}),
        ({"import": {"error": "no numpy 1", "hint": ""}, "device": None, "staging": None,
          "link": None, "library": {"error": "libascend_hal.so: not there", "hint": ""}},
         "FAIL FAIL SKIP SKIP SKIP", {"import": "no numpy 1", "library": "libascend_hal.so"}),
        ({"device": {**UP, "run_mode": "RC", "soc": "Ascend310B4"},
          "staging": {"letter": "E", "text": "E: x", "file": ""}, "link": {"nbytes": 0,
                                                                         "seconds": 0.0}},
         "OK SKIP OK OK OK",
         {"device": "memory shared with the host", "link": "nothing is copied"}),
    ],
)  # fmt: skip
def test_what_a_child_tells_is_weighed(
    changes: dict[str, dict[str, Any] | None], expected: str, words: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    steps = {name: step for name, step in {**WORKING, **changes}.items() if step is not None}
    found = examined(Attempt(steps), monkeypatch)
    assert " ".join(levels(found).values()) == expected
    for name, text in words.items():
        assert text in found[f"probe.{name}"].found
    for finding in found.values():
        assert finding.fix or finding.level in ("OK", "SKIP")


def test_an_import_that_ends_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "[ERROR] 2025-06-09-23:13:26 (PID:1) ERR99999 UNKNOWN exception\n"
    found = examined(Attempt({}, said, "signal 6 ended it"), monkeypatch)
    assert found["probe.import"].level == "FAIL"
    assert found["probe.import"].found.startswith("the import came to nothing: signal 6 ended it ")
    failed = {"import": {"error": "ImportError: x", "hint": ""}}
    found = examined(Attempt(failed, said), monkeypatch)
    assert "torch_npu reports any uncaught exception with it" in found["probe.import"].found


def test_what_works_counts_more_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(Attempt(dict(WORKING)), monkeypatch)
    npus = [f for f in found.values() if f.check.startswith(("cann.", "driver.", "device."))]
    assert {f.level for f in npus} <= {"OK", "WARN", "SKIP"}
    found = examined(Attempt({"import": IMPORTED}), monkeypatch)
    npus = [f for f in found.values() if f.check.startswith(("cann.", "driver.", "device."))]
    assert "FAIL" in {f.level for f in npus}


def test_the_runtime_s_word_for_free_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.safetensors"
    with model.open("wb") as stream:
        stream.truncate(61 * 10**9)
    found = examined(Attempt(dict(WORKING)), monkeypatch, checkpoint=str(model))
    assert found["memory.fit"].level == "FAIL"
    assert "model 61.00 GB, device free 60.00 GB" in found["memory.fit"].found


def test_lines_that_are_not_the_child_s_are_passed_over() -> None:
    told = '{"step": "import", "torch": "2"}', '{"step": "device", "count": 1}'
    output = "\n".join(["hello", told[0], '{"other": 1}', told[1], ""])
    assert steps_in(output) == {"import": {"torch": "2"}, "device": {"count": 1}}


def test_what_makes_reads_slow_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_file, "open_direct", lambda file, fd: (-1, "O_DIRECT refused: no"))
    monkeypatch.setattr(_core, "crc32c_implementation", lambda: "table")
    monkeypatch.setattr("ckptfmt.page_cache.query", lambda fd: (None, ""))
    found = {f.check: f for f in run("cpu").findings}
    assert found["probe.direct_reads"].level == found["probe.checksums"].level == "WARN"
    assert "O_DIRECT refused: no; read through the page cache" in found["probe.direct_reads"].found
    assert found["probe.page_cache"].found == "may not be asked; some bytes are tried instead"
