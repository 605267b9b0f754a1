"""The CRC-32 of a run of bytes that several threads read in pieces, in any order; compared when the last piece is in.

So a shard's checksums are checked while its rows pass to the quantizer, and nothing is read twice. Two CRCs combine
into that of the joined bytes by shifting the first past the second's length, a product of polynomials over GF(2).
"""

from __future__ import annotations

import threading
import zlib
from functools import lru_cache
from pathlib import Path

from glm_edge.errors import InvalidFileError

_POLYNOMIAL = 0xEDB88320  # CRC-32 of zip and gzip, reflected: bit 31 is the constant term


class Checksum:
    """What the CRC of `size` bytes at `offset` of a file has to be; `add` each piece once."""

    def __init__(self, path: Path, name: str, offset: int, size: int, crc: int) -> None:
        self._path, self._name, self._expected = path, name, crc
        self._end = offset + size
        self._lock = threading.Lock()
        self._done, self._crc = offset, 0  # everything before `_done` is in
        self._waiting: dict[int, tuple[int, int]] = {}  # offset -> (end, CRC) of pieces behind one that is missing

    def add(self, offset: int, data: memoryview) -> None:
        """Take the bytes that were read at `offset` of the file; what was there before is passed over.

        Raises InvalidFileError when the last piece is in and the checksum is another.
        """
        if offset < self._done or not data:
            return
        crc = zlib.crc32(data)
        with self._lock:
            self._waiting[offset] = (offset + len(data), crc)
            while (piece := self._waiting.pop(self._done, None)) is not None:
                self._crc = combine(self._crc, piece[1], piece[0] - self._done)
                self._done = piece[0]
                if self._done == self._end and self._crc != self._expected:
                    raise damaged(self._path, self._name, self._crc, self._expected)


def damaged(path: Path, name: str, found: int, expected: int) -> InvalidFileError:
    return InvalidFileError(
        f"{path}: {name} is damaged: CRC {found:08x}, recorded {expected:08x}; download the file again"
    )


def combine(first: int, second: int, size: int) -> int:
    """The CRC of two runs of bytes, the second of `size` bytes, from theirs."""
    return _times(_power(size), first) ^ second


@lru_cache(64)
def _power(size: int) -> int:
    """x to the power of 8 x `size`, modulo the polynomial."""
    result, square = 1 << 31, 1 << 23  # 1 and x^8
    while size:
        if size & 1:
            result = _times(result, square)
        square = _times(square, square)
        size >>= 1
    return result


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo the CRC's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product
