"""CRC32C: the published vectors, hardware against table, and combination."""

from __future__ import annotations

import mmap
import platform
import random
from pathlib import Path

import numpy as np
import pytest

from ckptfmt._core import crc32c, crc32c_combine, crc32c_implementation
from tests.helpers.indexes import MIB

ISCSI_READ = bytes.fromhex(
    "01c00000" + "00000000" * 3 + "14000000" + "00000400" + "00000014" + "00000018"
    + "28000000" + "00000000" + "02000000" + "00000000"
)  # fmt: skip

#: RFC 3720, appendix B.4, and two that are often quoted.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (ISCSI_READ, 0xD9963A56),
    (b"123456789", 0xE3069283),
    (b"", 0),
]
BOTH = pytest.mark.parametrize("implementation", ["auto", "table"])
NOISE = random.Random(1).randbytes(1100)


def bit_by_bit(data: bytes, crc: int = 0) -> int:
    """The definition, one bit at a time."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@BOTH
@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_published_vectors(data: bytes, expected: int, implementation: str) -> None:
    assert crc32c(data, implementation=implementation) == expected  # type: ignore[arg-type]


def test_the_instruction_is_used_where_the_processor_has_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    known = {
        "x86_64": [("sse4.2+vpclmulqdq", {"sse4_2", "avx2", "vpclmulqdq"}), ("sse4.2", {"sse4_2"})],
        "aarch64": [("armv8-crc", {"crc32"})],
    }
    names = [name for name, needed in known[platform.machine()] if needed <= flags]
    assert crc32c_implementation() == (names or ["table"])[0]


def test_every_length_at_every_offset_equals_the_definition() -> None:
    # The definition once, byte after byte; each length is a prefix of the longest.
    for offset in range(9):
        crc = 0
        for nbytes in range(1001):
            data = memoryview(NOISE)[offset : offset + nbytes]
            assert crc32c(data) == crc
            assert crc32c(data, implementation="table") == crc
            crc = bit_by_bit(NOISE[offset + nbytes : offset + nbytes + 1], crc)


@pytest.mark.parametrize("seed", range(32))
def test_long_runs_are_equal_on_hardware_and_by_table(seed: int) -> None:
    # The borders are those of the interleaved runs: 3 × 256, 3 × 4096 and, with a fourth, 15752.
    rng = random.Random(seed)
    sizes = [768, 12288, 12288 + 768, 15752, 2 * 15752, 2 * 15752 + 768, 1 << 20, 3 << 20]
    nbytes = sizes[seed % len(sizes)] + rng.randrange(-9, 10)
    data = memoryview(rng.randbytes(nbytes + 8))[rng.randrange(8) :]
    start = rng.randrange(1 << 32)
    assert crc32c(data, start) == crc32c(data, start, implementation="table")


def test_bytes_may_come_in_parts() -> None:
    rng = random.Random(3)
    data = rng.randbytes(100_000)
    whole = crc32c(data)
    for _ in range(50):
        at = rng.randrange(len(data) + 1)
        assert crc32c(data[at:], crc32c(data[:at])) == whole


def test_combination_is_the_checksum_of_both_parts_together() -> None:
    rng = random.Random(4)
    data = rng.randbytes(50_000)
    for _ in range(200):
        low, high = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        first, second = crc32c(data[:low]), crc32c(data[low:high])
        assert crc32c_combine(first, second, high - low) == crc32c(data[:high])


def test_combination_of_many_parts_in_any_grouping() -> None:
    rng = random.Random(5)
    parts = [rng.randbytes(rng.choice([0, 1, 7, 4096, MIB])) for _ in range(20)]
    left = 0
    for part in parts:
        left = crc32c_combine(left, crc32c(part), len(part))
    right, nbytes = 0, 0
    for part in reversed(parts):
        right = crc32c_combine(crc32c(part), right, nbytes)
        nbytes += len(part)
    assert left == right == crc32c(b"".join(parts))


def test_combination_over_more_bytes_than_any_memory_holds() -> None:
    # 2^63 zeros in two ways: their checksum is a linear map, applied once or by halves.
    half = crc32c(bytes(MIB))
    nbytes = MIB
    while nbytes < 1 << 62:
        half = crc32c_combine(half, half, nbytes)
        nbytes *= 2
    whole = crc32c_combine(half, half, nbytes)
    quarters = crc32c_combine(half, 0, nbytes) ^ half
    assert whole == quarters
    assert crc32c_combine(0x12345678, 0, 0) == 0x12345678


def test_what_has_a_buffer_has_a_checksum() -> None:
    expected = crc32c(b"abcdefgh")
    assert crc32c(bytearray(b"abcdefgh")) == expected
    assert crc32c(memoryview(b"abcdefgh")) == expected
    assert crc32c(np.frombuffer(b"abcdefgh", np.uint32)) == expected
    with mmap.mmap(-1, 8) as memory:
        memory[:] = b"abcdefgh"
        assert crc32c(memory) == expected


def test_a_buffer_with_gaps_is_refused() -> None:
    with pytest.raises(BufferError):
        crc32c(memoryview(b"abcdefgh")[::2])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        crc32c("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'auto' or 'table', not 'fast'"):
        crc32c(b"", implementation="fast")  # type: ignore[arg-type]
    for crc in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            crc32c(b"", crc)
    with pytest.raises(OverflowError):
        crc32c_combine(0, 0, -1)


def test_a_refused_buffer_is_let_go() -> None:
    data = bytearray(b"abc")
    with pytest.raises(OverflowError):
        crc32c(data, -1)
    crc32c(data)
    data.append(1)  # would raise while a view of it is held
