"""Fields of protobuf messages in a file, found without reading what they hold.

The few rules that are needed of the encoding (https://protobuf.dev/programming-guides/encoding/);
the library parses a message as a whole, in memory, and none above 2 GiB.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}  # wire types of fixed length, and that


class Field(NamedTuple):
    """One field: its number, its value if that is an integer, else where its bytes are."""

    number: int
    value: int | None
    offset: int
    nbytes: int


def fields(stream: IO[bytes], offset: int, end: int) -> Iterator[Field]:
    """The fields of the message that lies at ``[offset, end)``; what they hold is not read.

    Raises
    ------
    ValueError
        It is no message, or a field goes over its end.
    """
    while offset < end:
        key, offset = _varint(stream, offset, end)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"no field begins at byte {offset - 1}")
        if wire == 0:
            value, after = _varint(stream, offset, end)
            yield Field(number, value, offset, after - offset)
        elif wire == 2:
            nbytes, offset = _varint(stream, offset, end)
            after = offset + nbytes
            _refuse_beyond(offset, after, end)
            yield Field(number, None, offset, nbytes)
        elif wire in _FIXED:
            after = offset + _FIXED[wire]
            _refuse_beyond(offset, after, end)
            yield Field(number, None, offset, _FIXED[wire])
        else:
            raise ValueError(f"byte {offset - 1} begins no field")
        offset = after


def read_bytes(stream: IO[bytes], field: Field, limit: int) -> bytes:
    """What a field holds, if that is at most `limit` bytes."""
    if field.value is not None or field.nbytes > limit:
        raise ValueError(f"a field of {field.nbytes} bytes at byte {field.offset}, at most {limit}")
    stream.seek(field.offset)
    return stream.read(field.nbytes)


def integers(stream: IO[bytes], field: Field, limit: int) -> list[int]:
    """A repeated integer: one, or several packed into at most `limit` bytes."""
    if field.value is not None:
        return [field.value]
    read_bytes(stream, field, limit)
    found = []
    offset, end = field.offset, field.offset + field.nbytes
    while offset < end:
        value, offset = _varint(stream, offset, end)
        found.append(value)
    return found


def _refuse_beyond(offset: int, after: int, end: int) -> None:
    if after > end:
        raise ValueError(f"a field at bytes {offset}..{after} goes over the end at byte {end}")


def _varint(stream: IO[bytes], offset: int, end: int) -> tuple[int, int]:
    """An integer in base 128, its lowest digit first, and where it ends."""
    if stream.tell() != offset:
        stream.seek(offset, os.SEEK_SET)
    value = 0
    for i in range(10):
        byte = stream.read(1)
        if offset + i >= end or not byte:
            raise ValueError(f"an integer at byte {offset} goes over the end at byte {end}")
        value |= (byte[0] & 127) << (7 * i)
        if byte[0] < 128:
            return value, offset + i + 1
    raise ValueError(f"an integer at byte {offset} has more than 64 bits")
