"""Tens of thousands of broken indexes: each is refused with the one exception, or is valid."""

from __future__ import annotations

import json
import random
from collections import Counter
from copy import deepcopy

import numpy as np

from ckptfmt import index, rendering
from ckptfmt.errors import FormatError, UnsupportedVersionError
from ckptfmt.extents import Extents, compact_addresses
from ckptfmt.index import Index
from ckptfmt.read_plan import plan_read
from tests.helpers import mutations
from tests.helpers.indexes import (
    MIB,
    check,
    make_index,
    plain,
    ranked_index,
    sized,
    small_index,
    spec,
)
from tests.helpers.mutations import mutate_bytes, mutate_tree, spelled, to_pairs

COUNT = 24_000
SHARE_OF_TREES = 0.75

BASES = [
    small_index(),
    make_index([]),
    make_index(sized([0, 0])),
    make_index([spec("a", "F4", 4, 2), spec(("b", "c", "d"), "BOOL", 3), spec("e", "C64", 2)]),
    make_index(sized([5 * MIB + 3, 100]), alignment=2 * MIB, partition_nbytes=5 * MIB),
    make_index(sized([1, 2, 3, 4096, 5000]), metadata={"a": "b"}, provenance={"x": [{"y": 1.5}]}),
    ranked_index(),
    ranked_index("state"),
]
TEXTS = [index.encode(base) for base in BASES]
TREES = [to_pairs(plain(base)) for base in BASES]


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def use(made: Index) -> None:
    """What happens to every index that decodes: nothing of it may fail."""
    check(made)
    assert index.decode(index.encode(made), "again") == made
    extents = Extents.of(made)
    chosen = extents.of_tensors(range(len(made.tensors)))
    assert int(extents.span.sum()) == sum(p.payload_nbytes for p in made.partitions)
    if len(chosen) and made.nbytes < 64 * MIB:
        crcs = np.zeros(sum(p.table_nbytes // 4 - 1 for p in made.partitions), np.uint32)
        plan = plan_read(
            extents, chosen, compact_addresses(extents, chosen), crcs, op_nbytes=4 * MIB
        )
        assert plan.nbytes >= made.nbytes
    json.dumps(rendering.to_dict(made))
    rendering.summary("path", made)
    rendering.tensor_rows(made)
    rendering.module_tree(made)


def outcome(data: bytes) -> str:
    """Decode, and look closely at what came out."""
    try:
        made = index.decode(data, "model.ckpt/ckptfmt.json")
    except UnsupportedVersionError:
        return "newer"
    except FormatError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith("model.ckpt/ckptfmt.json: ")
        assert len(message) < 20_000
        return "refused"
    json.loads(data, object_pairs_hook=unique)
    use(made)
    return "valid"


def mutated(rng: random.Random) -> bytes:
    if rng.random() >= SHARE_OF_TREES:
        return mutate_bytes(rng.choice(TEXTS), rng)
    tree = deepcopy(rng.choice(TREES))
    mutate_tree([tree], rng, rng.choice([1, 1, 1, 2, 3]))
    return spelled(tree, rng).encode("utf-8", "surrogatepass")


def test_the_bases_are_valid() -> None:
    for text in TEXTS:
        assert outcome(text) == "valid"


def test_mutated_indexes_are_refused_or_valid() -> None:
    rng = random.Random(f"index {mutations.SEED}")
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        data = mutated(rng)
        try:
            counts[outcome(data)] += 1
        except Exception as error:
            # With the input itself: a failure must be seen again without all those before it.
            raise AssertionError(f"after {data!r}") from error
    assert sum(counts.values()) == COUNT >= 20_000
    assert counts["refused"] > COUNT // 2
    assert counts["valid"] > 1000
    assert counts["newer"] > 50
