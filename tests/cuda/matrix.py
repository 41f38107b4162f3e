"""The ways to load onto GPUs, and which of them go together."""

from __future__ import annotations

from tests.helpers.npu_cases import Case, Place, case
from tests.helpers.pairwise import Row, pairwise

FACTORS: dict[str, list[object]] = {
    "staging": ["A", "C", "D"],
    "io": ["io_uring", "pread"],
    "reads": ["direct", "buffered"],
    "two": [False, True],
    "model": ["mixed", "large", "wide"],
    "op_nbytes": [1 << 20, 4 << 20, 7 << 20],
    "verify": [True, False],
    "sync_copy": [False, True],
}
#: Two GPUs.
GPUS = Place(kind="cuda")


def small() -> list[Row]:
    """Every two values."""
    return pairwise(FACTORS, lambda row: True)


def case_of(row: Row) -> Case:
    """What is run."""
    return case("loading.equal", **row)
