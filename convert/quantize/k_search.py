"""A search for better scales of K-quants than llama.cpp's: the same format (`k_quants.py`), a smaller error.

llama.cpp's own super-block is the start. For each sub-block, scales and minimums near those of the start are tried, as
the whole numbers that they are: the weights are rounded, and the pair with the least weighted squared error is kept.
Then d and dmin that are best for all codes of the super-block follow by least squares; for q3_k and q6_k the sub-blocks
are searched again. A super-block that did not get better stays llama.cpp's.

Super-blocks lie side by side, in arrays of shape (weights of a sub-block, sub-blocks, super-blocks), so that a sum is
an addition of rows: fast, and in the same order on every processor. The same input gives the same bytes everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from glm_edge.model.ggml import quantize

from .k_quants import KINDS, SUPER_BLOCK, Bytes, Floats, Kind, Scales, inverse_of, pack, unpack

CHUNK = 64  # super-blocks at once: the arrays of one fit the caches of a core
_TINY = np.float32(1e-30)
_LEAST_WEIGHT = np.float32(1e-6)  # a column that never has an input is rounded all the same
_SINGULAR = np.float32(1e-6)


Steps: TypeAlias = tuple[tuple[int, int], ...]


def _grid(scales: int, minimums: int) -> Steps:
    return tuple((s, m) for s in range(-scales, scales + 1) for m in range(-minimums, minimums + 1))


# Steps from the start that are tried in each round, of (scale, minimum). For q4_k and q5_k 25 steps and a second round
# would gain 1 and 2 % of the error in twice the time.
STEPS = {
    "q3_k": (_grid(3, 0), _grid(2, 0)),
    "q4_k": (_grid(1, 1),),
    "q5_k": (_grid(1, 1),),
    "q6_k": (_grid(3, 0), _grid(2, 0)),
}


class _Chunk:
    """A chunk of super-blocks, and what is computed of them again and again.

    Args:
        x: the weights, shape (super-blocks, SUPER_BLOCK).
        w: their importances, or None.
    """

    def __init__(self, kind: Kind, x: Floats, w: Floats | None) -> None:
        self.kind = kind
        self.x = self._side_by_side(x)
        self.w = None if w is None else self._side_by_side(w)
        self.wx = self.x if self.w is None else self.w * self.x
        self.code, self.scratch = np.empty_like(self.x), np.empty_like(self.x)
        ones = np.ones_like(self.x) if self.w is None else self.w
        self.sum_w, self.sum_wx = _sum(ones), _sum(self.wx)

    def _side_by_side(self, values: Floats) -> Floats:
        parts = values.reshape(len(values), self.kind.sub_blocks, -1)
        return np.ascontiguousarray(parts.transpose(2, 1, 0))

    def codes(self) -> Floats:
        """Those of the last rounding, shape (super-blocks, SUPER_BLOCK)."""
        return self.code.transpose(2, 1, 0).reshape(-1, SUPER_BLOCK)

    def error(self, at: Scales) -> Floats:
        """Round all weights. The weighted squared error of each super-block."""
        return _sum(self._errors(at.d * at.scales, at.dmin * at.minimums))

    def nearby(self, at: Scales, steps: Steps) -> Scales:
        """`at` with the best scale and minimum of each sub-block that are some of `steps` away."""
        low, high = (np.float32(end) for end in self.kind.scales)
        least = np.full(at.scales.shape, np.inf, np.float32)
        found = Scales(at.d, at.scales.copy(), at.dmin, at.minimums.copy())
        for step, minimum_step in steps:
            scales = np.clip(at.scales + np.float32(step), low, high)
            scales[scales == 0] = 1  # codes of 0 do the same
            minimums = np.clip(at.minimums + np.float32(minimum_step), 0, high)
            errors = self._errors(at.d * scales, at.dmin * minimums)
            smaller = errors < least
            for kept, new in ((least, errors), (found.scales, scales), (found.minimums, minimums)):
                np.copyto(kept, new, where=smaller)
        return found

    def best_d(self, at: Scales) -> Scales:
        """`at` with the d and dmin that are best for the codes of the last rounding, as float16."""
        s, m = at.scales, at.minimums
        xs = _sum(self._weighted_sum(self.x, self.code) * s)
        ss = _sum(self._weighted_sum(self.code, self.code) * s * s)
        if not self.kind.minimums:
            return replace(at, d=_rounded(np.divide(xs, ss, out=at.d.copy(), where=ss > 0)))
        ones = np.ones_like(self.code[:1])
        sm = _sum(self._weighted_sum(self.code, ones) * s * m)
        mm, xm = _sum(self.sum_w * m * m), _sum(self.sum_wx * m)
        determinant = ss * mm - sm * sm
        good = determinant > _SINGULAR * ss * mm
        d = np.divide(xs * mm - xm * sm, determinant, out=at.d.copy(), where=good)
        dmin = np.divide(xs * sm - xm * ss, determinant, out=at.dmin.copy(), where=good)
        good = (d > 0) & (dmin >= 0)
        return replace(at, d=_rounded(np.where(good, d, at.d)), dmin=_rounded(np.where(good, dmin, at.dmin)))

    def _errors(self, scale: Floats, minimum: Floats) -> Floats:
        """Round all weights. The weighted squared error of each sub-block whose scale is not 0."""
        inverse = inverse_of(scale)
        np.multiply(self.x, inverse, out=self.scratch)
        if self.kind.minimums:
            np.add(self.scratch, minimum * inverse, out=self.scratch)
        np.rint(self.scratch, out=self.code)
        np.maximum(self.code, np.float32(self.kind.codes[0]), out=self.code)
        np.minimum(self.code, np.float32(self.kind.codes[1]), out=self.code)
        np.subtract(self.scratch, self.code, out=self.scratch)
        return self._weighted_sum(self.scratch, self.scratch) * (scale * scale)

    def _weighted_sum(self, a: Floats, b: Floats) -> Floats:
        """sum w a b of each sub-block."""
        np.multiply(a, b, out=self.scratch)
        if self.w is not None:
            np.multiply(self.scratch, self.w, out=self.scratch)
        return _sum(self.scratch)


def _sum(values: Floats) -> Floats:
    total: Floats = np.add.reduce(values, axis=0)
    return total


def _rounded(d: Floats) -> Floats:
    return d.astype(np.float16).astype(np.float32)


def search(type_name: str, rows: Floats, importance: Floats | None) -> Bytes:
    """`rows` as bytes of a K-quant, shape (rows, bytes of a row): llama.cpp's, made better.

    Args:
        importance: of each column, shape (columns,), or None: all count the same.
    """
    columns = None
    if importance is not None:
        _, exponent = np.frexp(max(importance.mean(), _TINY))  # by a power of two, llama.cpp's bytes stay the same
        importance = np.maximum(np.ldexp(importance, -exponent), _LEAST_WEIGHT)
        columns = importance.reshape(-1, SUPER_BLOCK)
    found = quantize(type_name, rows, importance)
    x = rows.reshape(-1, SUPER_BLOCK)
    blocks = found.reshape(len(x), -1)
    for begin in range(0, len(x), CHUNK):
        part = np.arange(begin, min(begin + CHUNK, len(x)))
        w = None if columns is None else columns[part % len(columns)]
        blocks[part] = _search(type_name, x[part], w, blocks[part])
    return found


def _search(type_name: str, x: Floats, w: Floats | None, start: Bytes) -> Bytes:
    if len(x) == 1:  # numpy adds the sub-blocks of a single super-block in another order
        return _search(type_name, x.repeat(2, 0), None if w is None else w.repeat(2, 0), start.repeat(2, 0))[:1]
    chunk = _Chunk(KINDS[type_name], x, w)
    at = unpack(type_name, start)
    best = Scales(*(values.copy() for values in (at.d, at.scales, at.dmin, at.minimums)))
    first = chunk.error(at)
    least = first.copy()
    for steps in STEPS[type_name]:
        at = chunk.nearby(at, steps)
        _keep(best, least, at, chunk.error(at))
        at = chunk.best_d(at)
        _keep(best, least, at, chunk.error(at))
    chunk.error(best)
    return np.where((least < first)[:, None], pack(type_name, best, chunk.codes()), start)


def _keep(best: Scales, least: Floats, at: Scales, error: Floats) -> None:
    """Put into `best` and `least` what has a smaller error."""
    smaller = error < least
    pairs = ((best.d, at.d), (best.scales, at.scales), (best.dmin, at.dmin), (best.minimums, at.minimums))
    for kept, new in (*pairs, (least, error)):
        np.copyto(kept, new, where=smaller)
