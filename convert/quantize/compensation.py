"""Error compensation (GPTQ, arXiv 2210.17323): columns still to be rounded take over the error of those that are.

What matters of a matrix W is W X^T, with the inputs X of a calibration text. So of the rounded matrix Q the error is
e^T H e in each row, with e = w - q and H = X^T X. H is damped, and H = L L^T: the error is |L^T e|^2, and entry i of
L^T e depends on the columns from i on. Rounding from the last column to the first, each takes over what those behind
it have left: t_i = w_i + sum over j > i of L_ji e_j / L_ii is rounded in place of w_i. No inverse of H is needed.

Columns come in groups. For a group b, M is the inverse of L_bb^T: w + M L_rb^T e_r are its weights after the errors of
all columns r behind it, and within it an error of column j is taken over by the columns before it with M_ij / M_jj.

Products in floating point depend on processor, BLAS library and threads, and so do these bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import Columns, columns_of, width
from .k_quants import Bytes, Floats

GROUP = 256  # columns; a super-block of K-quants
# Shares of H's diagonal that damp it: the least, the most, and for as many tokens as columns. Few tokens say little of
# how inputs go together. On the demo a share of 0.1 lost more where tokens were few, and 1 where they were many.
_DAMPING = (0.3, 1.0, 0.6)
_PART = 32  # columns of a group whose errors reach the rest of it in one product


def add_products(h: Floats, x: Floats) -> None:
    """Add x^T x to `h`, its lower triangle by groups; `x` has shape (tokens, columns)."""
    for start in range(0, len(h), GROUP):
        h[start:, start : start + GROUP] += x[:, start:].T @ x[:, start : start + GROUP]


def factor(h: Floats, tokens: int) -> None:
    """Damp H, of so many tokens, and turn its lower triangle into L, with M in place of each L_bb.

    A column is damped by its own inputs and by the mean, in equal parts: the largest alone would hide all others.
    """
    least, most, equal = _DAMPING
    damping = min(most, max(least, equal * len(h) / tokens))
    squares = np.diagonal(h).astype(np.float64)
    h[np.diag_indices(len(h))] += (damping * (squares + squares.mean()) / 2).astype(np.float32)
    for start in range(0, len(h), GROUP):
        stop = min(start + GROUP, len(h))
        h[start:, start:stop] -= h[start:, :start] @ h[start:stop, :start].T
        turned = _inverse_factor(h[start:stop, start:stop].astype(np.float64)).T.astype(np.float32)
        h[stop:, start:stop] = h[stop:, start:stop] @ turned
        h[start:stop, start:stop] = turned


def _inverse_factor(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of the Cholesky factor of `a`, by halves, because threads of LAPACK wait for each other for long."""
    half = len(a) // 2
    if half < _PART:
        return np.linalg.inv(np.linalg.cholesky(a))
    first = _inverse_factor(a[:half, :half])
    below = a[half:, :half] @ first.T
    second = _inverse_factor(a[half:, half:] - below @ below.T)
    return np.block([[first, np.zeros(below.T.shape)], [-second @ below @ first, second]])


def compensated(type_name: str, rows: NDArray[np.float32], lower: Floats, importance: Floats) -> Bytes:
    """`rows` as bytes of the type, shape (rows, bytes of a row).

    Args:
        type_name: one of COMPENSATED (`columns.py`).
        lower: what `factor` made of H.
        importance: of each column, for the search of scales.
    """
    e = np.ascontiguousarray(rows.T)  # (columns, rows): weights, and errors where a column is rounded
    size = width(type_name)
    found: list[Bytes] = []
    for start in reversed(range(0, len(e), GROUP)):
        group = slice(start, min(start + GROUP, len(e)))
        m = lower[group, group]
        w = e[group] + m @ (lower[group.stop :, group].T @ e[group.stop :])
        errors = np.empty_like(w)
        for first in reversed(range(0, len(w), size)):
            block = slice(first, first + size)
            chosen = columns_of(type_name, w[block], importance[group][block])
            for part in reversed(range(first, first + size, _PART)):
                _round_part(chosen, part - first, slice(part, part + _PART), m, w, e[group], errors)
            found.append(chosen.encoded())
    return np.hstack(found[::-1])


def _round_part(chosen: Columns, column: int, part: slice, m: Floats, w: Floats, e: Floats, errors: Floats) -> None:
    """Round some columns of a group, the last first, the first of which is `column` of its block."""
    for j in reversed(range(part.start, part.stop)):
        rounded = chosen.round(column + j - part.start, w[j])
        errors[j] = (w[j] - rounded) / m[j, j]
        e[j] -= rounded
        w[part.start : j] -= m[part.start : j, j, None] * errors[j]
    w[: part.start] -= m[: part.start, part] @ errors[part]
