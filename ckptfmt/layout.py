"""Bytes on disk: the partition's header and its checksum table (docs/format.md, sections 3 and 5).

Pure: no file is opened here. What has been unpacked needs no further doubt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt._core import crc32c
from ckptfmt.errors import FormatError, UnsupportedVersionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

INDEX_FILE = "ckptfmt.json"
SUMS_FILE = "SHA256SUMS"
STATE_FILE = "resume.json"  # only in an unfinished folder

MAGIC = b"\x89CKPT\r\n\x1a"  # as PNG's: a transfer that changes line ends or strips bit 7 shows
MAJOR, MINOR = 1, 0
BLOCK_NBYTES = 1 << 20
MIN_ALIGNMENT, MAX_ALIGNMENT = 4096, 2 << 20

_HEADER = struct.Struct("<8sHHI16sIIQQI")
_CRC = struct.Struct("<I")
HEADER_NBYTES = _HEADER.size + _CRC.size


def partition_file(number: int) -> str:
    """Name of a partition; there is no other place for it than this one."""
    return f"part-{number:05d}.ckptfmt"


def align_up(nbytes: int, alignment: int) -> int:
    """Round up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def block_count(nbytes: int) -> int:
    """Checksum blocks of an extent."""
    return -(-nbytes // BLOCK_NBYTES)


def table_nbytes(blocks: int) -> int:
    """Bytes of a table of `blocks` checksums: one each, and one of the table."""
    return 4 * (blocks + 1)


def check_alignment(alignment: int, where: str) -> None:
    """Refuse what is no power of two between 4 KiB and 2 MiB."""
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(
            f"{where}: alignment is {alignment}, expected a power of two from "
            f"{MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        )


@dataclass(frozen=True, slots=True)
class Header:
    """Start of every partition; it fills one alignment unit, zero after its own checksum.

    Attributes
    ----------
    alignment : int
        Of every tensor and of the payload's end, in bytes.
    checkpoint_id : bytes
        16 bytes, the same in all partitions of a checkpoint and in the index.
    number, count : int
        Which partition this is, of how many.
    payload_nbytes, table_nbytes : int
        The file is ``alignment + payload_nbytes + table_nbytes`` bytes.
    """

    alignment: int
    checkpoint_id: bytes
    number: int
    count: int
    payload_nbytes: int
    table_nbytes: int

    @property
    def file_nbytes(self) -> int:
        """Size of the whole partition."""
        return self.alignment + self.payload_nbytes + self.table_nbytes

    def pack(self) -> bytes:
        """The first `alignment` bytes of the file."""
        fields = _HEADER.pack(
            MAGIC, MAJOR, MINOR, self.alignment, self.checkpoint_id, self.number, self.count,
            self.payload_nbytes, self.table_nbytes, BLOCK_NBYTES,
        )  # fmt: skip
        return (fields + _CRC.pack(crc32c(fields))).ljust(self.alignment, b"\0")

    @classmethod
    def unpack(cls, data: bytes | memoryview, where: str) -> Header:
        """Decode and check the start of a partition (at least ``HEADER_NBYTES`` bytes of it)."""
        if len(data) < HEADER_NBYTES:
            raise FormatError(
                f"{where}: the header needs {HEADER_NBYTES} bytes, the file has {len(data)}"
            )
        magic, major, minor, alignment, checkpoint_id, number, count, payload, table, block = (
            _HEADER.unpack_from(data)
        )
        if magic != MAGIC:
            raise FormatError(
                f"{where}: not a ckptfmt partition: starts with {magic!r}, expected {MAGIC!r}"
            )
        (stored,) = _CRC.unpack_from(data, _HEADER.size)
        found = crc32c(data[: _HEADER.size])
        if stored != found:
            raise FormatError(
                f"{where}: header checksum is {found:08x}, the header says {stored:08x}",
                hint="the file is damaged: copy it again or convert again",
            )
        if major != MAJOR:
            raise UnsupportedVersionError(
                f"{where}: format {major}.{minor}, this ckptfmt reads format {MAJOR}",
                hint="pip install --upgrade ckptfmt",
            )
        check_alignment(alignment, where)
        if block != BLOCK_NBYTES:
            raise FormatError(f"{where}: block is {block} bytes, expected {BLOCK_NBYTES}")
        if payload % alignment or table % 4 or table < 4 or number >= count:
            raise FormatError(
                f"{where}: partition {number} of {count} with {payload} payload and {table} table "
                f"bytes contradicts itself"
            )
        return cls(alignment, checkpoint_id, number, count, payload, table)


def pack_table(crcs: npt.NDArray[np.uint32]) -> bytes:
    """The end of a partition: the checksums of its blocks in order, then the checksum of those."""
    body = crcs.astype("<u4").tobytes()
    return body + _CRC.pack(crc32c(body))


def unpack_table(data: bytes | memoryview, where: str) -> npt.NDArray[np.uint32]:
    """Decode and check a checksum table."""
    import numpy as np  # noqa: PLC0415

    if len(data) < table_nbytes(0) or len(data) % 4:
        raise FormatError(f"{where}: a checksum table of {len(data)} bytes, expected 4 for each")
    body = bytes(data[:-4])
    (stored,) = _CRC.unpack(bytes(data[-4:]))
    found = crc32c(body)
    if stored != found:
        raise FormatError(
            f"{where}: checksum of the checksum table is {found:08x}, the table says {stored:08x}",
            hint="the file is damaged: copy it again or convert again",
        )
    return np.frombuffer(body, "<u4").astype(np.uint32)
