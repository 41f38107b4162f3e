"""Several devices at once, tensors that are there already, casts, and streams of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.npu_cases import DEVICES, Case, Place, case, run_cases
from tests.npu import matrix
from tests.npu.conftest import Children

BOARD = (*DEVICES, ("soc", "Ascend310B4"))
NEW, OLD, RC = matrix.EP["8.5.0"], matrix.EP["8.0.0"], matrix.RC["8.0.0"]
QUEUE_2 = matrix.place("9.1.0", "EP", 2)

HALVES = (("", "npu:0"), ("layers.1", "npu:1"), ("layers.3", "npu:1"))
OWNERS = (("layers.1.", "npu:1"), ("layers.3.", "npu:1"), ("head", "npu:1"), ("", "npu:0"))
NESTED = (("layers", "npu:1"), ("layers.0", "npu:0"), ("layers.0.t5", "npu:1"), ("", "npu:0"))
NESTED_OWNERS = (
    ("layers.0.t5", "npu:1"), ("layers.0.", "npu:0"), ("layers.", "npu:1"), ("", "npu:0")
)  # fmt: skip

CASES = [
    *((place, case("devices.mapped", model="large", device=HALVES, owners=OWNERS))
      for place in (NEW, OLD, RC, QUEUE_2)),
    (NEW, case("devices.mapped", model="wide", device=NESTED, owners=NESTED_OWNERS)),
    (NEW, case("devices.misspelled", device=(("", "npu:0"), ("layer.1", "npu:1")))),
    (NEW, case("devices.misspelled", device=(("layers.1", "npu:1"),))),
    *((place, case("devices.auto", model=model, n_devices=2))
      for place in (NEW, RC) for model in ("mixed", "large", "wide")),
    (NEW, case("devices.not_split", model="large", patterns=("layers",))),
    *((place, case("devices.read_once", staging=letter))
      for place, letter in ((NEW, "A"), (OLD, "C"), (RC, "E"))),
    (NEW, case("devices.stops_the_others")),
    (NEW, case("devices.no_such_device")),
    *((place, case("devices.current_device_is_kept")) for place in (NEW, OLD, RC, QUEUE_2)),
    *((place, case("devices.in_threads")) for place in (NEW, RC)),
    (NEW, case("devices.ties_in_a_stream")),
    (NEW, case("devices.device_arguments")),
    *((place, case("filling.into_dense", model=model, staging=letter))
      for place, letter in ((NEW, "A"), (OLD, "C"), (OLD, "D"), (RC, "E"))
      for model in ("large", "wide")),
    *((place, case("filling.into_awkward", staging=letter))
      for place, letter in ((NEW, "A"), (OLD, "C"), (RC, "E"))),
    *((place, case("rows.equal", model=model, staging=letter, verify=verify))
      for place, letter in ((NEW, "A"), (OLD, "C"), (OLD, "D"), (RC, "E"))
      for model, verify in (("large", True), ("mixed", True), ("wide", False))),
    *((place, case("rows.cast", staging=letter)) for place, letter in ((NEW, "A"), (OLD, "C"))),
    *((place, case("ranks.loaded", staging=letter)) for place, letter in ((NEW, "A"), (RC, "E"))),
    (NEW, case("ranks.cast", staging="A")),
    *((place, case("plain.equal", model=model, staging=letter, reads=reads))
      for place, letter in ((NEW, "A"), (OLD, "C"), (OLD, "D"), (RC, "E"))
      for model, reads in (("large", "direct"), ("mixed", "direct"), ("wide", "auto"))),
    (OLD, case("plain.equal", model="large", staging="C", starts=(0, 64))),
    (NEW, case("filling.refused")),
    (NEW, case("filling.into_module")),
    *((place, case("filling.own_format", staging=letter))
      for place, letter in ((NEW, "A"), (OLD, "C"))),
    *((place, case("filling.cast", dtype=dtype, device=device))
      for place, device in ((NEW, "npu:1"), (RC, "npu:0")) for dtype in ("bf16", "fp16", "fp32")),
    *((NEW, case("saving.comes_back", model=model)) for model in ("large", "mixed")),
    (NEW, case("saving.module_comes_back")),
    *((NEW, case("saving.waits_for_torch", waiting=waiting)) for waiting in (True, False)),
]  # fmt: skip


@pytest.mark.parametrize(("place", "case"), CASES, ids=[f"{p} {c}" for p, c in CASES])
def test_devices(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.parametrize(
    ("place", "one"),
    [
        (Place("8.5.0", variables=(("PYTORCH_NO_NPU_MEMORY_CACHING", "1"),)), "A"),
        (Place("8.0.0", 1, BOARD, (("PYTORCH_NO_NPU_MEMORY_CACHING", "1"),)), "E"),
    ],
    ids=["EP", "RC"],
)
def test_streams_keep_within_their_memory(place: Place, one: str, checkpoints: Path) -> None:
    sizes = (3 << 20, 6 << 20)
    wanted = [case("devices.streamed", max_nbytes=size, staging=one) for size in sizes]
    problems = run_cases(place, wanted, checkpoints).values()
    assert not any(problems), "\n".join(problems)


def test_two_devices_are_filled_at_the_same_time(checkpoints: Path, tmp_path: Path) -> None:
    place = Place("8.5.0", 1, (*DEVICES, ("trace", str(tmp_path / "trace"))))
    wanted = case("devices.side_by_side")
    assert run_cases(place, [wanted], checkpoints) == {wanted: ""}
