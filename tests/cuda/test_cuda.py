"""Loads to GPUs of a fake CUDA runtime: the same cases as on NPUs, and what is CUDA's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda.matrix import GPUS, case_of, small
from tests.helpers import cuda_fake
from tests.helpers.npu_cases import DEVICES, Case, Place, case, run_cases
from tests.npu.conftest import Children

HALVES = (("", "cuda:0"), ("layers.1", "cuda:1"), ("layers.3", "cuda:1"))
OWNERS = (("layers.1.", "cuda:1"), ("layers.3.", "cuda:1"), ("head", "cuda:1"), ("", "cuda:0"))
LETTERS = "ACD"
SCENARIOS = [
    "memory_reused", "user_stream", "other_thread", "filled_in_place", "read_before_filled",
    "streamed", "used_at_once", "slots_are_not_filled_early",
]  # fmt: skip
#: Those that can see it when nothing is waited for.
SEEING = SCENARIOS[:5]

WAYS = [
    case("loading.chosen", letter="A", refused=()),
    case("loading.admitted", letters=LETTERS),
    *(case("loading.named_by_the_environment", letter=letter) for letter in LETTERS),
    case("loading.some", names=("layers.[12].*",)),
    case("loading.sixteen_at_once", model="large"),
    case("devices.mapped", model="large", device=HALVES, owners=OWNERS),
    case("devices.misspelled", device=(("layers.1", "cuda:1"),)),
    *(case("devices.auto", model=model, n_devices=2) for model in ("mixed", "large", "wide")),
    case("devices.not_split", model="large", patterns=("layers",)),
    case("devices.read_once", staging="A"),
    case("devices.stops_the_others"),
    case("devices.no_such_device"),
    case("devices.current_device_is_kept"),
    case("devices.in_threads"),
    case("devices.ties_in_a_stream"),
    case("devices.device_arguments"),
    *(case("filling.into_dense", model=model, staging=letter)
      for letter in LETTERS for model in ("large", "wide")),
    *(case("filling.into_awkward", staging=letter) for letter in LETTERS),
    *(case("rows.equal", model=model, staging=letter, verify=verify)
      for letter in LETTERS
      for model, verify in (("large", True), ("mixed", True), ("wide", False))),
    case("rows.cast", staging="A"),
    case("ranks.loaded", staging="A"),
    case("ranks.cast", staging="A"),
    *(case("plain.equal", model=model, staging=letter, reads=reads)
      for letter in LETTERS
      for model, reads in (("large", "direct"), ("mixed", "direct"), ("wide", "auto"))),
    case("filling.refused"),
    case("filling.into_module"),
    *(case("filling.cast", dtype=dtype, device="cuda:1") for dtype in ("bf16", "fp16", "fp32")),
]  # fmt: skip
ORDER = [
    *(case(f"ordering.{name}", staging=letter) for letter in LETTERS for name in SCENARIOS),
    *(case("ordering.many_times", staging=letter, count=100) for letter in LETTERS),
    *(case("ordering.goes_wrong_without_waiting", scenario=name, staging=letter)
      for letter in LETTERS for name in SEEING),
]  # fmt: skip

#: What a load calls, whose probe has been made before; by the package, or by torch for it.
QUEUED = [
    "cudaEventCreateWithFlags", "cudaEventDestroy", "cudaEventRecord", "cudaMemcpyAsync",
    "cudaStreamCreateWithFlags", "cudaStreamDestroy", "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
]  # fmt: skip
CALLS = {
    "A": [*QUEUED, "cudaEventQuery", "cudaEventSynchronize", "cudaHostRegister", "cudaMalloc"],
    "C": [*QUEUED, "cudaEventQuery", "cudaEventSynchronize", "cudaHostAlloc", "cudaMalloc"],
    "D": [*QUEUED, "cudaMalloc"],
}
FAILURES = [
    *(case("faults.at", staging=letter, function=function, codes=(2, 101, 719, 99999))
      for letter, functions in CALLS.items() for function in functions),
    *(case("faults.at", staging="A", function=function, codes=(719,), way=way)
      for way in ("load_into", "stream", "auto", "cast") for function in CALLS["A"]
      if (way, function) != ("load_into", "cudaMalloc")),  # that memory is the caller's
    *(case("faults.at", staging="A", function=function, codes=(719,), probing=True)
      for function in (*CALLS["A"], "cudaMemcpy")),
    *(case("faults.deferred", staging=letter, codes=(507052,)) for letter in "AC"),
    *(case("faults.cannot_be_waited_for", staging=letter) for letter in "AC"),
    case("faults.falls_back", rules="cudaHostRegister:*=801", letter="C",
         because=("not A: cudaHostRegister", "801")),
    case("faults.falls_back", rules="cudaHostRegister:*=801,cudaHostAlloc:*=2", letter="D",
         because=("not A: ", "not C: cudaHostAlloc")),
    case("faults.none_left", rules="cudaMemcpyAsync:*=719,cudaMemcpy:*=719"),
    *(case("faults.damaged", staging=letter) for letter in LETTERS),
    case("faults.damaged", staging="A", device=(("layers.2", "cuda:1"), ("", "cuda:0"))),
    case("faults.cut_short", staging="A"),
]  # fmt: skip
OWN = [
    case("gpu.pool_is_kept"),
    case("gpu.pool_is_bounded"),
    case("gpu.no_device_is_woken"),
    case("gpu.torch_finds_no_error"),
    case("gpu.facts"),
    case("following.spans"),
    case("following.lines"),
    case("gpu.direct_storage_is_told"),
]  # fmt: skip
SAVING = [
    *(case("saving.comes_back", model=model) for model in ("large", "mixed")),
    case("saving.module_comes_back"),
    case("saving.waits_for_torch"),
    case("saving.waits_for_torch", waiting=False),
]
ALL = [*map(case_of, small()), *WAYS, *ORDER, *FAILURES, *OWN, *SAVING]


@pytest.mark.parametrize(("place", "case"), [(GPUS, c) for c in ALL], ids=[str(c) for c in ALL])
def test_gpus(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.parametrize("fault", ["", "short", "fails", "no file", "no driver"])
def test_direct_storage(fault: str, checkpoints: Path) -> None:
    place = Place(variables=(("CKPTFMT_CUFILE_LIBRARY", cuda_fake.CUFILE),), kind="cuda")
    wanted = [case("gpu.direct_storage", fault=fault), case("gpu.direct_storage_verifies_nothing")]
    found = run_cases(place, wanted[: 1 if fault else 2], checkpoints)
    assert not any(found.values()), "\n".join(found.values())


@pytest.mark.parametrize(("n_devices", "device"), [(2, "cuda:0"), (1, "auto")])
def test_out_of_memory(n_devices: int, device: str, checkpoints: Path) -> None:
    place = Place(settings=(("devices", n_devices), ("memory", "24M")), kind="cuda")
    one = case("faults.out_of_memory", device=device)
    assert run_cases(place, [one], checkpoints) == {one: ""}


def test_two_devices_are_filled_at_the_same_time(checkpoints: Path, tmp_path: Path) -> None:
    place = Place(settings=(*DEVICES, ("trace", str(tmp_path / "trace"))), kind="cuda")
    one = case("devices.side_by_side")
    assert run_cases(place, [one], checkpoints) == {one: ""}


def test_no_device(checkpoints: Path) -> None:
    """A driver with no GPU: told, with what to look at."""
    place = Place(settings=(("devices", 1),), variables=(("CASES_NO_GPU", "1"),), kind="cuda")
    one = case("gpu.none_there")
    assert run_cases(place, [one], checkpoints) == {one: ""}
