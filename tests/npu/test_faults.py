"""Every call of the runtime fails once: told rightly, nothing left, and the next load works."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ckptfmt.acl_codes import NAMES
from tests.helpers.npu_cases import Case, Place, case, run_cases
from tests.npu.conftest import Children
from tests.npu.matrix import EP, RC

#: A place for each strategy, with functions of old versions and of new ones.
PLACES = {
    "A": EP["8.5.0"], "B": EP["8.1.RC1"], "C": EP["7.0.0"], "D": EP["8.0.0"], "E": RC["8.0.0"],
}  # fmt: skip

#: What a load calls, whose probe has been made before; by the package, or by torch for it.
COMMON = [
    "aclrtGetCurrentContext", "aclrtGetRunMode", "aclrtGetSocName", "aclrtMallocAlign32",
    "aclrtSetCurrentContext", "aclrtSetDevice", "aclrtSynchronizeStream",
]  # fmt: skip
QUEUED = [
    "aclrtCreateEventExWithFlag", "aclrtCreateStream", "aclrtDestroyEvent", "aclrtDestroyStream",
    "aclrtRecordEvent", "aclrtStreamWaitEvent",
]  # fmt: skip
COPIED = ["aclrtMemcpyAsync", "aclrtQueryEventStatus", "aclrtSynchronizeEvent"]
CALLED = {
    "A": [*COMMON, *QUEUED, *COPIED, "aclrtHostRegisterV2", "aclrtHostUnregister"],
    "B": [*COMMON, *QUEUED, *COPIED, "aclrtHostRegister", "aclrtHostUnregister"],
    "C": [*COMMON, *QUEUED, *COPIED, "aclrtMallocHost", "aclrtFreeHost"],
    "D": [*COMMON, *QUEUED, "aclrtMemcpy"],
    "E": COMMON,
}
#: Some of each kind: no context, no memory, the driver's own, one that nobody knows.
SOME = [107002, 207001, 507899, 999999]
#: One of each group that means something else, and the edges of the table.
MANY = [
    100000, 100001, 100039, 107000, 107001, 107003, 107008, 107016, 107017, 107020, 107022, 200000,
    200003, 207000, 207004, 207006, 207007, 207008, 207018, 207020, 300000, 500000, 507000, 507010,
    507013, 507033, 507046, 507052, 507053, 507057, 507901, 507910, 507911, 507916, 1,
]  # fmt: skip
assert not [code for code in (*SOME[:-1], *MANY[:-1]) if code not in NAMES]

EVERY = [
    (PLACES[letter], case("faults.at", staging=letter, function=function, codes=tuple(SOME)))
    for letter, functions in CALLED.items()
    for function in functions
]
EVERY += [
    (PLACES[letter], case("faults.calls", staging=letter, probing=False, expected=tuple(functions)))
    for letter, functions in CALLED.items()
]
#: torch_npu 2.13.0 takes this for a driver that does not match and goes on without the memory: the
#: process ends in torch.empty, whoever calls it.
TORCH_DIES = ("aclrtMallocAlign32", 207000)
ALL_CODES = [
    (PLACES[letter],
     case("faults.at", staging=letter, function=function,
          codes=tuple(code for code in MANY if (function, code) != TORCH_DIES)))
    for letter, functions in CALLED.items()
    for function in functions
]
#: And all that there are, of one strategy.
ALL_CODES += [
    (PLACES["A"],
     case("faults.at", staging="A", function=function, first_only=True,
          codes=tuple(code for code in NAMES if code and (function, code) != TORCH_DIES)))
    for function in CALLED["A"]
]
#: What only a probe calls.
PROBED = {"A": ["aclrtMemcpy", "aclrtPointerGetAttributes"], "C": ["aclrtMemcpy"], "D": [],
          "E": ["aclrtMemcpy"]}  # fmt: skip
PROBED["B"] = PROBED["A"]
PROBING = [
    (PLACES[letter],
     case("faults.at", staging=letter, function=function, codes=(507899,), probing=True))
    for letter, functions in CALLED.items()
    for function in (*functions, *PROBED[letter])
]
#: Other ways to load than a whole model to one device.
WAYS = [
    (PLACES[letter],
     case("faults.at", staging=letter, function=function, codes=tuple(SOME), way=way))
    for letter in "AE"
    for way in ("load_into", "stream", "auto", "cast")
    for function in CALLED[letter]
    if (way, function) != ("load_into", "aclrtMallocAlign32")  # that memory is the caller's
]


def ids(pairs: list[tuple[Place, Case]]) -> list[str]:
    return [f"{place} {one}" for place, one in pairs]


@pytest.mark.parametrize(("place", "case"), EVERY, ids=ids(EVERY))
def test_every_call_can_fail(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


@pytest.mark.parametrize(("place", "case"), PROBING, ids=ids(PROBING))
def test_every_call_can_fail_in_a_first_load(place: Place, case: Case, children: Children) -> None:
    """Then the probe makes some of them."""
    children.check(place, case)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "case"), WAYS, ids=ids(WAYS))
def test_every_call_can_fail_in_every_way_to_load(
    place: Place, case: Case, children: Children
) -> None:
    children.check(place, case)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "case"), ALL_CODES, ids=ids(ALL_CODES))
def test_every_call_can_fail_with_every_code(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


LATER = [
    *((PLACES[letter], case("faults.deferred", staging=letter, codes=(507052, 507057, 207001)))
      for letter in "ABC"),
    *((PLACES[letter], case("faults.cannot_be_waited_for", staging=letter)) for letter in "AC"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "case"), LATER, ids=ids(LATER))
def test_copies_can_fail_when_they_run(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


V2, V1 = "aclrtHostRegisterV2:*=507899", "aclrtHostRegister:*=207000"
NO_PINNED, NO_COPY = "aclrtMallocHost:*=207001", "aclrtMemcpyAsync:*=507899"
REFUSED = [
    case("faults.falls_back", rules=V2, letter="B",
         because=("not A: aclrtHostRegisterV2", "507899")),
    case("faults.falls_back", rules=f"{V2},{V1}", letter="C",
         because=("not A: ", "not B: aclrtHostRegister ", "207000")),
    case("faults.falls_back", rules=f"{V2},{V1},{NO_PINNED}", letter="D",
         because=("not C: aclrtMallocHost", "207001")),
    case("faults.falls_back", rules="aclrtPointerGetAttributes:*=107000", letter="C",
         because=("not A: ", "not B: ", "pinned")),
    case("faults.falls_back", rules=NO_COPY, letter="D", because=("not C: aclrtMemcpyAsync",)),
    case("faults.none_left", rules=f"{NO_COPY},aclrtMemcpy:*=507000"),
]  # fmt: skip
#: torch takes 20 MiB at a time, so that they cannot be smaller.
SMALL_DEVICES = [Place("8.5.0", 1, (("devices", n), ("memory", "24M"))) for n in (2, 1)]
FILES = [
    *((PLACES["A"], one) for one in REFUSED),
    (SMALL_DEVICES[0], case("faults.out_of_memory", device="npu:0")),
    (SMALL_DEVICES[1], case("faults.out_of_memory", device="auto")),
    (Place("8.5.0", 1, (("devices", 1), ("memory", "48M"))),
     case("filling.cast_without_room", model="large")),
    *((PLACES[letter], case("faults.damaged", staging=letter)) for letter in PLACES),
    (PLACES["A"],
     case("faults.damaged", staging="A", device=(("layers.2", "npu:1"), ("", "npu:0")))),
    *((PLACES[letter], case("faults.cut_short", staging=letter)) for letter in "AE"),
]


@pytest.mark.parametrize(("place", "case"), FILES, ids=ids(FILES))
def test_what_is_refused_or_damaged(place: Place, case: Case, children: Children) -> None:
    children.check(place, case)


EIO, PART = errno.EIO, "part-00001"
READS = [
    case("faults.read_fails", staging=letter, rules=rules, code=EIO, io=io, reads=reads)
    for letter in "AC"
    for io, reads, rules in (
        ("pread", "direct", (f"pread@{PART}:1+:fail={EIO}",)),
        ("pread", "buffered", (f"pread@{PART}:3+:fail={EIO}",)),
    )
]


def test_reads_that_fail(faulty_io: Path, checkpoints: Path) -> None:
    """A child of its own: its reads go through a library that makes them fail."""
    place = Place("8.5.0", variables=(("LD_PRELOAD", str(faulty_io)),))
    found = run_cases(place, READS, checkpoints)
    assert {str(one): problem for one, problem in found.items() if problem} == {}
