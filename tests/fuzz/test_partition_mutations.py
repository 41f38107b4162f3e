"""Broken headers and tables: refused with the one exception, or exactly what was written."""

from __future__ import annotations

import random
import struct
from collections import Counter

import numpy as np

from ckptfmt import layout
from ckptfmt._core import crc32c
from ckptfmt.errors import FormatError, UnsupportedVersionError
from ckptfmt.layout import Header
from tests.helpers import mutations
from tests.helpers.mutations import EDGES, mutate_bytes

HEADERS, TABLES = 12_000, 4000
FIELDS = struct.Struct("<8sHHI16sIIQQI")
BASES = [
    Header(4096, bytes(range(16)), 0, 1, 4096, 8),
    Header(65536, b"\xff" * 16, 3, 7, 65536 * 100, 4 * 1000),
    Header(2 << 20, bytes(16), 99_999, 100_000, 1 << 40, 4 << 20),
]


def sealed(data: bytes) -> bytes:
    """A header with the right checksum, so that its fields are looked at."""
    return data[:60] + struct.pack("<I", crc32c(data[:60])) + data[64:]


def mutated_fields(rng: random.Random) -> bytes:
    fields = list(FIELDS.unpack_from(rng.choice(BASES).pack()))
    for _ in range(rng.choice([1, 1, 2, 4])):
        i = rng.choice([1, 2, 3, 5, 6, 7, 8, 9])
        bits = [0, 16, 16, 32, 0, 32, 32, 64, 64, 32][i]
        value = rng.choice([*EDGES, fields[i] + 1, fields[i] - 1, fields[i] * 2, 4096 << i])
        fields[i] = value % (1 << bits)
    return sealed(FIELDS.pack(*fields))


def test_mutated_headers_are_refused_or_consistent() -> None:
    rng = random.Random(f"header {mutations.SEED}")
    counts: Counter[str] = Counter()
    for number in range(HEADERS):
        if number % 2:
            data = mutated_fields(rng)
        else:
            data = mutate_bytes(rng.choice(BASES).pack()[: rng.choice([64, 64, 100])], rng)
            if rng.random() < 0.5 and len(data) >= 64:
                data = sealed(data)
        try:
            header = Header.unpack(data, "part")
        except UnsupportedVersionError:
            counts["newer"] += 1
            continue
        except FormatError:
            counts["refused"] += 1
            continue
        counts["valid"] += 1
        assert header.alignment in {4096 << i for i in range(10)}
        assert header.payload_nbytes % header.alignment == 0
        assert header.table_nbytes % 4 == 0
        assert header.table_nbytes >= 4
        assert header.number < header.count
        assert len(header.checkpoint_id) == 16
        # All that was read is written again; the minor version alone may differ.
        again = header.pack()
        assert (again[:10], again[12:60]) == (data[:10], data[12:60])
    assert sum(counts.values()) == HEADERS
    assert min(counts["newer"], counts["refused"], counts["valid"]) > 200


def test_mutated_tables_are_refused_or_the_same() -> None:
    rng = random.Random(f"table {mutations.SEED}")
    tables = [layout.pack_table(np.arange(n, dtype=np.uint32) * 77) for n in (0, 1, 5, 300)]
    counts: Counter[str] = Counter()
    for _ in range(TABLES):
        data = mutate_bytes(rng.choice(tables), rng)
        if rng.random() < 0.3 and len(data) >= 4:
            data = data[:-4] + struct.pack("<I", crc32c(data[:-4]))
        try:
            found = layout.unpack_table(memoryview(data), "part")
        except FormatError:
            counts["refused"] += 1
            continue
        counts["valid"] += 1
        assert layout.pack_table(found) == data
    assert sum(counts.values()) == TABLES
    assert min(counts.values()) > 200
