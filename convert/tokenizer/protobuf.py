"""The fields of a protobuf message, read strictly: tokenizer.model is checked before the native parser reads it.

Wire format only (https://protobuf.dev/programming-guides/encoding): no schema, no nesting, no groups.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


class MalformedError(ValueError):
    """The bytes are not a protobuf message; the text says why and at which byte."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):  # 64 bits take at most 10 bytes
        if at + i >= len(data):
            raise MalformedError(f"the data ends inside a number at byte {at}")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + i + 1
    raise MalformedError(f"a number at byte {at} is longer than 64 bits")


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(field number, wire type, value) in order: an int for VARINT, else the raw bytes. Raises MalformedError."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not 1 <= number < 2**29:
            raise MalformedError(f"field number {number} at byte {start}")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise MalformedError(f"wire type {wire} at byte {start}")
        if size > len(data) - at:
            raise MalformedError(f"field {number} at byte {start} claims {size} bytes where {len(data) - at} are left")
        yield number, wire, data[at : at + size]
        at += size
