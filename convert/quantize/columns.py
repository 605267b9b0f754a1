"""Blocks whose weights are rounded one column after the other, with scales that are chosen before.

For `compensation.py`, which changes the columns to come after each. The scales are those of the search (`rounding.py`,
`k_search.py`), of q5_0 libggml's. Blocks of many rows lie side by side: arrays of shape (columns, rows).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .k_quants import KINDS, SUPER_BLOCK, Bytes, Floats, inverse_of, pack, unpack
from .rounding import BLOCK, levels_of, packed, quantize_rows

_TABLES = frozenset({"q4_0", "iq4_nl"})
COMPENSATED = frozenset({*_TABLES, "q5_0", *KINDS})


class Columns(Protocol):
    """One block of each row."""

    def round(self, column: int, x: Floats) -> Floats:
        """Round a column of the block, `x` of shape (rows,), and keep its codes."""
        ...

    def encoded(self) -> Bytes:
        """The blocks, shape (rows, bytes of a block), when each column has been rounded."""
        ...


def width(type_name: str) -> int:
    """Columns of a block."""
    return SUPER_BLOCK if type_name in KINDS else BLOCK


def columns_of(type_name: str, x: Floats, importance: Floats) -> Columns:
    """Choose the scales for `x`, shape (columns, rows), with the columns' importances."""
    start = quantize_rows(type_name, np.ascontiguousarray(x.T), importance, searched=True)
    return {"q5_0": _Q50}.get(type_name, _Table if type_name in _TABLES else _Super)(type_name, start)


class _Table:
    """A float16 scale, then codes of 4 bits that stand for levels of a table: q4_0 and iq4_nl."""

    def __init__(self, type_name: str, start: Bytes) -> None:
        self._levels = levels_of(type_name)
        self._half, self._scale = _scale_of(start)
        self._inverse = inverse_of(self._scale) * np.float32(self._levels.steps)
        self._codes = np.empty((BLOCK, len(start)), np.uint8)

    def round(self, column: int, x: Floats) -> Floats:
        step = (x * self._inverse + np.float32(self._levels.zero)).astype(np.intp)
        np.take(self._levels.codes, step, mode="clip", out=self._codes[column])
        rounded: Floats = np.take(self._levels.nearest, step, mode="clip") * self._scale
        return rounded

    def encoded(self) -> Bytes:
        return np.hstack([self._half, packed(self._codes)])


class _Q50:
    """A float16 scale, the fifth bits of all codes, then their lower four."""

    def __init__(self, type_name: str, start: Bytes) -> None:
        self._half, self._scale = _scale_of(start)
        self._inverse = inverse_of(self._scale)
        self._codes = np.empty((BLOCK, len(start)), np.uint8)

    def round(self, column: int, x: Floats) -> Floats:
        code = np.clip(np.rint(x * self._inverse), -16, 15)
        self._codes[column] = code + 16
        rounded: Floats = code * self._scale
        return rounded

    def encoded(self) -> Bytes:
        fifth = np.packbits(self._codes.T >> 4, axis=1, bitorder="little")
        return np.hstack([self._half, fifth, packed(self._codes & np.uint8(15))])


class _Super:
    """A super-block of a K-quant."""

    def __init__(self, type_name: str, start: Bytes) -> None:
        self._type = type_name
        self._at = unpack(type_name, start)
        self._scale = self._at.d * self._at.scales  # (sub-blocks, rows)
        self._minimum = self._at.dmin * self._at.minimums
        self._inverse = inverse_of(self._scale)
        self._codes = np.empty((SUPER_BLOCK, len(start)), np.float32)

    def round(self, column: int, x: Floats) -> Floats:
        low, high = KINDS[self._type].codes
        part = column * len(self._scale) // SUPER_BLOCK
        code = np.clip(np.rint((x + self._minimum[part]) * self._inverse[part]), low, high)
        self._codes[column] = code
        rounded: Floats = code * self._scale[part] - self._minimum[part]
        return rounded

    def encoded(self) -> Bytes:
        return pack(self._type, self._at, np.ascontiguousarray(self._codes.T))


def _scale_of(blocks: Bytes) -> tuple[Bytes, Floats]:
    half = np.ascontiguousarray(blocks[:, :2])
    return half, half.view("<f2")[:, 0].astype(np.float32)
