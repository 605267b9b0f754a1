"""A search for better scales of q4_0 and iq4_nl blocks than llama.cpp's: the same format, a smaller error.

A block is 32 weights x, one scale d and a code each, which stands for a level q of a table. With the importance w of
each weight, sum w (x - d q)^2 is smallest for d = sum w x q / sum w q^2, and there it is sum w x^2 minus the gain
(sum w x q)^2 / sum w q^2. So for several scales the weights are rounded and the gain is taken; from the best one on,
rounding and the best scale for the codes take turns, and neither makes the gain smaller. llama.cpp rounds q4_0 once,
and tries 15 scales for iq4_nl, all with the largest weight at the lower end of the table.

The blocks of a chunk lie side by side, in an array of shape (32, blocks), so that a sum over a block is an addition of
rows: fast, and in the same order on every processor. The same input gives the same bytes everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from glm_edge.model.ggml import dequantize, quantize

from .k_quants import KINDS, inverse_of
from .k_search import search

BLOCK = 32  # weights...
BLOCK_BYTES = 18  # ...in these: a float16 scale, then codes of 4 bits, the first half of them in the lower halves
_TINY = np.float32(1e-30)
CHUNK = 512  # blocks at once: the arrays of one fit the caches of a core
_ENDS = (0.88, 0.95, 1.02, 1.09, 1.16)  # of the table, where the scales of the start put the largest weight
_TURNS = 2  # of rounding and best scale after the start; a third gains less than 0.1 % of the error
# llama.cpp's own search is slower than ours for iq4_nl, so only q4_0's is run too, and the better block is kept.
_COMPARED = frozenset({"q4_0"})

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Levels:
    """What the 16 codes of a type stand for, as a table from the steps of a fine grid.

    The level nearest to a value v is `nearest[int(v * steps + zero)]`; the steps meet halfway between two levels.
    """

    lowest: float
    highest: float
    steps: float
    zero: float
    nearest: Floats
    codes: NDArray[np.uint8]


def _levels(values: tuple[int, ...], steps: int, size: int) -> Levels:
    grid = (np.arange(size) + 0.5 - size / 2) / steps
    codes = np.abs(grid[:, None] - np.array(values)).argmin(axis=1)
    nearest = np.array(values, np.float32)[codes]
    return Levels(min(values), max(values), steps, size / 2, nearest, codes.astype(np.uint8))


IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # kvalues_iq4nl of ggml-common.h


@cache
def levels_of(type_name: str) -> Levels:
    """Of q4_0 or iq4_nl."""
    return _levels(tuple(range(-8, 8)), 2, 64) if type_name == "q4_0" else _levels(IQ4_NL, 2, 512)


SEARCHED = frozenset({"q4_0", "iq4_nl", *KINDS})


def quantize_rows(
    type_name: str, rows: Floats, importance: Floats | None = None, *, searched: bool = False
) -> NDArray[np.uint8]:
    """`rows` as bytes of the type, shape (rows, bytes of a row): by libggml, or searched where SEARCHED has the type.

    Args:
        importance: of each column, shape (columns,); without it all count the same.
    """
    if not searched or type_name not in SEARCHED:
        return quantize(type_name, rows, importance)
    if type_name in KINDS:
        return search(type_name, rows, importance)
    count, columns = rows.shape
    width = columns // BLOCK
    weights = None if importance is None else (importance / max(importance.mean(), _TINY)).reshape(width, BLOCK).T
    found = np.empty((count * width, BLOCK_BYTES), np.uint8)
    step = max(1, CHUNK // width)
    for start in range(0, count, step):
        x = side_by_side(rows[start : start + step])
        w = None if weights is None else np.tile(weights, x.shape[1] // width)
        found[start * width : start * width + x.shape[1]] = _search(levels_of(type_name), x, w)
    if type_name in _COMPARED:
        _keep_better(type_name, rows, importance, found)
    return found.reshape(count, -1)


def side_by_side(rows: Floats) -> Floats:
    """The blocks of the rows, shape (32, blocks)."""
    return np.ascontiguousarray(rows.reshape(-1, BLOCK).T)


class _Blocks:
    """A chunk of blocks, and what is computed again and again from them. All arrays have shape (32, blocks)."""

    def __init__(self, levels: Levels, x: Floats, w: Floats | None) -> None:
        self.levels, self.x, self.w = levels, x, w
        self.wx = x if w is None else w * x
        self.step = np.empty(x.shape, np.intp)
        self.level, self.scratch = np.empty_like(x), np.empty_like(x)

    def round(self, inverse: Floats) -> None:
        """Take the nearest level for each weight, by the inverse of each block's scale."""
        np.multiply(self.x, inverse * np.float32(self.levels.steps), out=self.scratch)
        np.add(self.scratch, np.float32(self.levels.zero), out=self.scratch)
        np.copyto(self.step, self.scratch, casting="unsafe")
        np.take(self.levels.nearest, self.step, out=self.level, mode="clip")

    def best_scale(self) -> tuple[Floats, Floats]:
        """The best scale of each block for its levels, and the gain; both 0 where no weight counts."""
        np.multiply(self.wx, self.level, out=self.scratch)
        products = np.add.reduce(self.scratch, axis=0)
        np.multiply(self.level, self.level, out=self.scratch)
        if self.w is not None:
            np.multiply(self.scratch, self.w, out=self.scratch)
        squares = np.add.reduce(self.scratch, axis=0)
        scale = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
        return scale, products * scale


def _search(levels: Levels, x: Floats, w: Floats | None) -> NDArray[np.uint8]:
    """The bytes of each block, shape (blocks, BLOCK_BYTES)."""
    if x.shape[1] == 1:  # numpy adds the weights of a single block in another order
        return _search(levels, x.repeat(2, axis=1), None if w is None else w.repeat(2, axis=1))[:1]
    blocks = _Blocks(levels, x, w)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    inverse = inverse_of(largest)
    best = np.zeros_like(largest)
    scale = largest / np.float32(levels.lowest)
    starts = [np.float32(end * share) for end in (levels.lowest, levels.highest) for share in _ENDS]
    for turn in range(len(starts) + _TURNS):
        blocks.round(inverse * starts[turn] if turn < len(starts) else inverse_of(scale))
        found, gain = blocks.best_scale()
        better = gain > best
        np.copyto(best, gain, where=better)
        np.copyto(scale, found, where=better)
    half = scale.astype("<f2")
    blocks.round(inverse_of(half.astype(np.float32)))
    codes = np.take(levels.codes, blocks.step, mode="clip")
    out = np.empty((x.shape[1], BLOCK_BYTES), np.uint8)
    out[:, :2] = half.view(np.uint8).reshape(-1, 2)
    out[:, 2:] = packed(codes)
    return out


def packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes of 4 bits, shape (32, blocks), as bytes, shape (blocks, 16)."""
    found: NDArray[np.uint8] = codes[:16] | codes[16:] << np.uint8(4)
    return found.T


def _keep_better(type_name: str, rows: Floats, importance: Floats | None, found: NDArray[np.uint8]) -> None:
    """Put llama.cpp's block into `found` wherever its error is smaller."""
    other = quantize(type_name, rows, importance).reshape(found.shape)
    errors = []
    for data in (found, other):
        squares = np.square(dequantize(type_name, data.reshape(len(rows), -1), rows.shape[1]) - rows)
        if importance is not None:
            squares *= importance
        errors.append(np.add.reduce(side_by_side(squares), axis=0))
    worse = errors[1] < errors[0]
    found[worse] = other[worse]
