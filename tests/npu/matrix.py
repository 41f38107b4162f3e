"""The ways to load onto NPUs, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from tests.helpers.npu_cases import DEVICES, Case, Place, case
from tests.helpers.pairwise import Row, pairwise
from tests.helpers.simulator import VERSIONS

#: Strategies by what a version of CANN has; in RC mode there is nothing to register with.
REGISTERING = {"8.1.RC1": "B", "8.3.RC1": "B", "8.5.0": "AB", "9.1.0": "AB"}

#: Each is a child, which takes seconds to start: every two of version, mode and queue meet in one.
CHILDREN = [
    (version, "EP" if (i + queue) % 2 else "RC", queue)
    for i, version in enumerate(VERSIONS)
    for queue in (0, 1, 2)
]

FACTORS: dict[str, list[object]] = {
    "version": list(VERSIONS),
    "mode": ["EP", "RC"],
    "queue": [0, 1, 2],
    "staging": ["A", "B", "C", "D", "E"],
    "io": ["io_uring", "pread"],
    "reads": ["direct", "buffered"],
    "two": [False, True],
    "model": ["mixed", "large", "wide"],
    "op_nbytes": [1 << 20, 4 << 20, 7 << 20],
    "verify": [True, False],
    "sync_copy": [False, True],
}
#: Of a child; the others are of a load.
OF_PLACE = ("version", "mode", "queue")


def strategies(version: str, mode: str) -> str:
    """The letters that can be had."""
    return "CDE" if mode == "RC" else REGISTERING.get(version, "") + "CD"


def is_possible(row: Mapping[str, object]) -> bool:
    """Whether a row, as far as it goes, is one that can be run."""
    for version, mode in product(VERSIONS, ("EP", "RC")):
        if row.get("version", version) != version or row.get("mode", mode) != mode:
            continue
        if str(row.get("staging", "C")) in strategies(version, mode):
            return True
    return False


def is_in_few_children(row: Mapping[str, object]) -> bool:
    """The same, with the children of the small choice."""
    return any(
        row.get("version", version) == version
        and row.get("mode", mode) == mode
        and row.get("queue", queue) == queue
        and str(row.get("staging", "C")) in strategies(version, mode)
        for version, mode, queue in CHILDREN
    )


def small() -> list[Row]:
    """Every two values that can meet."""
    return pairwise(FACTORS, is_in_few_children)


def full() -> list[Row]:
    """Every version, mode, queue, strategy, kind of I/O and of reads, one device and two.

    The rest takes turns.
    """
    first = [name for name in FACTORS if name not in ("model", "op_nbytes", "verify", "sync_copy")]
    rows = []
    for values in product(*(FACTORS[name] for name in first)):
        row = dict(zip(first, values, strict=True))
        if not is_possible(row):
            continue
        n = len(rows)
        # Coprime steps, so that no value of one is bound to a value of another.
        row |= {
            "model": FACTORS["model"][n % 3],
            "op_nbytes": FACTORS["op_nbytes"][n // 3 % 3],
            "verify": n % 5 != 0,
            "sync_copy": n % 7 == 0,
        }
        rows.append(row)
    return rows


def place(version: str, mode: str, queue: int) -> Place:
    """A child by what it simulates; what is RC mode is a board."""
    return Place(version, queue, (*DEVICES, ("soc", "Ascend310B4")) if mode == "RC" else DEVICES)


#: One of the children that are there anyway, for tests to which the queue does not matter.
EP = {v: place(v, m, q) for v, m, q in reversed(CHILDREN) if m == "EP"}
RC = {v: place(v, m, q) for v, m, q in reversed(CHILDREN) if m == "RC"}


def place_of(row: Row) -> Place:
    """Where a row is run."""
    return place(str(row["version"]), str(row["mode"]), int(str(row["queue"])))


def case_of(row: Row) -> Case:
    """What is run there."""
    return case("loading.equal", **{n: v for n, v in row.items() if n not in OF_PLACE})
