"""The partition's header and its table: what is packed comes back, and nothing else is taken."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from ckptfmt import layout
from ckptfmt._core import crc32c
from ckptfmt.errors import FormatError, UnsupportedVersionError
from ckptfmt.layout import Header

FIELDS = "<8sHHI16sIIQQI"  # docs/format.md, written down a second time
HEADER = Header(4096, bytes(range(16)), 2, 5, 3 * 4096, 4 * 4)


def packed(**changed: object) -> bytes:
    """A header with some fields replaced and the right checksum over whatever they are."""
    fields: dict[str, object] = {
        "magic": layout.MAGIC, "major": 1, "minor": 0, "alignment": 4096, "id": bytes(16),
        "number": 0, "count": 1, "payload": 4096, "table": 8, "block": 1 << 20,
    }  # fmt: skip
    assert set(changed) <= set(fields)
    data = struct.pack(FIELDS, *{**fields, **changed}.values())
    return (data + struct.pack("<I", crc32c(data))).ljust(4096, b"\0")


def test_sizes_are_those_of_the_format() -> None:
    assert layout.HEADER_NBYTES == 64
    assert layout.MAGIC.hex() == "89434b50540d0a1a"
    assert layout.BLOCK_NBYTES == 1048576
    assert (layout.MAJOR, layout.MINOR) == (1, 0)


@pytest.mark.parametrize("alignment", [4096 << i for i in range(10)])
def test_a_header_fills_one_alignment_unit_and_comes_back(alignment: int) -> None:
    header = replace(HEADER, alignment=alignment, payload_nbytes=3 * alignment)
    data = header.pack()
    assert len(data) == alignment
    assert not any(data[layout.HEADER_NBYTES :])
    assert Header.unpack(data, "part") == header
    assert Header.unpack(memoryview(data)[: layout.HEADER_NBYTES], "part") == header


def test_a_header_has_its_fields_where_the_format_says() -> None:
    data = HEADER.pack()
    assert data[:8] == b"\x89CKPT\r\n\x1a"
    assert data[8:12] == b"\1\0\0\0"
    assert data[12:16] == b"\x00\x10\0\0"
    assert data[16:32] == bytes(range(16))
    assert data[32:40] == b"\2\0\0\0\5\0\0\0"
    assert struct.unpack_from("<QQI", data, 40) == (3 * 4096, 16, 1 << 20)
    assert struct.unpack_from("<I", data, 60) == (crc32c(data[:60]),)


def test_the_largest_values_come_back() -> None:
    header = Header(2 << 20, b"\xff" * 16, 2**32 - 2, 2**32 - 1, (1 << 62), 2**32 - 4)
    assert Header.unpack(header.pack(), "part") == header
    assert header.file_nbytes == (2 << 20) + (1 << 62) + 2**32 - 4


def test_an_unchanged_header_is_taken() -> None:
    assert Header.unpack(packed(), "part").count == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"magic": b"\x89CKPT\n\x1a\0"}, "not a ckptfmt partition"),
        ({"magic": b"\x09CKPT\r\n\x1a"}, "not a ckptfmt partition"),
        ({"alignment": 0}, "alignment is 0"),
        ({"alignment": 2048}, "alignment is 2048"),
        ({"alignment": 12288, "payload": 12288}, "alignment is 12288"),
        ({"alignment": 4 << 20, "payload": 4 << 20}, "alignment is 4194304"),
        ({"block": 1 << 19}, "block is 524288"),
        ({"block": 0}, "block is 0"),
        ({"payload": 4097}, "contradicts itself"),
        ({"table": 0}, "contradicts itself"),
        ({"table": 10}, "contradicts itself"),
        ({"number": 1}, "partition 1 of 1"),
        ({"number": 7, "count": 3}, "partition 7 of 3"),
        ({"count": 0}, "partition 0 of 0"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        Header.unpack(packed(**changed), "m.ckpt/part-00000.ckptfmt")
    assert str(caught.value).startswith("m.ckpt/part-00000.ckptfmt: ")
    assert type(caught.value) is FormatError


@pytest.mark.parametrize("major", [0, 2, 65535])
def test_another_major_version_is_refused_as_that(major: int) -> None:
    # A newer version may give every other field another meaning: it is named before they are read.
    with pytest.raises(UnsupportedVersionError, match=f"format {major}.9"):
        Header.unpack(packed(major=major, minor=9, alignment=0, block=1), "part")


def test_a_newer_minor_version_is_read() -> None:
    assert Header.unpack(packed(minor=65535), "part") == Header.unpack(packed(), "part")


@pytest.mark.parametrize("nbytes", [0, 1, 8, 63])
def test_a_header_that_is_cut_short_is_refused(nbytes: int) -> None:
    with pytest.raises(FormatError, match=f"needs 64 bytes, the file has {nbytes}"):
        Header.unpack(packed()[:nbytes], "part")


def test_every_flipped_bit_of_a_header_is_refused() -> None:
    data = HEADER.pack()
    for bit in range(8 * layout.HEADER_NBYTES):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            Header.unpack(bytes(flipped), "part")


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_table_comes_back(count: int) -> None:
    crcs = np.random.default_rng(count).integers(0, 1 << 32, count, np.uint32)
    data = layout.pack_table(crcs)
    assert len(data) == layout.table_nbytes(count)
    found = layout.unpack_table(data, "part")
    assert found.dtype == np.uint32
    assert np.array_equal(found, crcs)
    assert data[:-4] == crcs.astype("<u4").tobytes()
    assert struct.unpack("<I", data[-4:]) == (crc32c(data[:-4]),)


def test_every_flipped_bit_of_a_table_is_refused() -> None:
    data = layout.pack_table(np.arange(5, dtype=np.uint32))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError, match="checksum of the checksum table"):
            layout.unpack_table(bytes(flipped), "part")


@pytest.mark.parametrize("nbytes", [0, 3, 6, 9])
def test_a_table_of_no_possible_size_is_refused(nbytes: int) -> None:
    with pytest.raises(FormatError, match=f"table of {nbytes} bytes"):
        layout.unpack_table(bytes(nbytes), "part")


def test_partitions_are_named_by_number() -> None:
    assert layout.partition_file(0) == "part-00000.ckptfmt"
    assert layout.partition_file(99_999) == "part-99999.ckptfmt"
    assert layout.partition_file(100_000) == "part-100000.ckptfmt"


@pytest.mark.parametrize(
    ("nbytes", "aligned", "blocks"),
    [
        (0, 0, 0), (1, 4096, 1), (4096, 4096, 1), (4097, 8192, 1), (1 << 20, 1 << 20, 1),
        ((1 << 20) + 1, (1 << 20) + 4096, 2), ((1 << 62) + 1, (1 << 62) + 4096, (1 << 42) + 1),
    ],
)  # fmt: skip
def test_sizes_are_rounded_up(nbytes: int, aligned: int, blocks: int) -> None:
    assert layout.align_up(nbytes, 4096) == aligned
    assert layout.block_count(nbytes) == blocks
    assert layout.table_nbytes(blocks) == 4 * blocks + 4
