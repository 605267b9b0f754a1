"""What sampling parameters mean, written down by their definitions, and the test whether draws follow it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from glm_edge.types import SamplingParams

Probabilities = npt.NDArray[np.float64]


def exact(
    logits: npt.NDArray[np.float32], params: SamplingParams, allowed: npt.NDArray[np.bool_] | None = None
) -> Probabilities:
    """The distribution of the next token: mask, temperature, then top_k, top_p and min_p, each on what is left.

    A token stays in the nucleus while the mass of the likelier ones is at most top_p.
    """
    wanted = logits.astype(np.float64)
    if allowed is not None:
        wanted[~allowed] = -np.inf
    if params.temperature == 0:
        return np.eye(1, len(wanted), int(wanted.argmax()))[0]
    p = np.exp((wanted - wanted.max()) / params.temperature)
    order = np.argsort(-p, kind="stable")
    if params.top_k:
        p[order[params.top_k :]] = 0
    p /= p.sum()
    before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    p[order[before > params.top_p]] = 0
    p[p < params.min_p * p.max()] = 0
    return p / p.sum()


def surprise(counts: npt.NDArray[np.intp], expected: Probabilities) -> float:
    """Pearson's chi square of draws, as deviations from its mean: about normal, so 4 and more hardly ever come.

    A draw of what has no probability is infinitely surprising.
    """
    chi2, freedom = chi_square(counts, expected)
    if freedom == 0:
        return chi2
    # Wilson and Hilferty: the cube root of chi square / freedom is nearly normal
    return float(((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom)))


def chi_square(counts: npt.NDArray[np.intp], expected: Probabilities) -> tuple[float, int]:
    """Pearson's statistic of draws and its degrees of freedom; infinite for a draw of what has no probability.

    Tokens are joined, in the order of their probability, to bins of at least 20 expected draws.
    """
    if counts[expected == 0].sum():
        return math.inf, 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    order = np.argsort(-expected, kind="stable")
    wanted, got = (expected * counts.sum())[order], counts[order]
    bins = np.minimum(np.cumsum(wanted) - wanted, counts.sum() - 20) // 20
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    wanted, got = np.add.reduceat(wanted, starts), np.add.reduceat(got, starts)
    freedom = len(wanted) - 1
    return float(((got - wanted) ** 2 / wanted).sum()), freedom
