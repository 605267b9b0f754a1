"""Sample one token from logits: temperature, then top_k, top_p and min_p, each on what is left. Exact, without sorting.

A token is in the nucleus of top_p when all strictly likelier tokens together have at most the share top_p. So a token
is sampled from all, and kept if it is in the nucleus. If not, the nucleus lies among the likelier tokens, and the next
one is sampled from those; each round halves them on average.

Measured against sorting, at 65,024 tokens: 0.14 ms a token on every distribution, where a sort of the likeliest 512 and
then of all takes 0.2 ms on a peaked one and 1.2 to 2.8 ms on a flat one. And where the nucleus is cut out first, a seed
does not repeat an answer: rounding moves one token over the border, and every token after it in the sum moves too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from ...types import SamplingParams

Floats = npt.NDArray[np.float32]
_BLOCK = 256  # weights that are summed to find the token's block, before its place in the block


def sample(logits: Floats, params: SamplingParams, random: np.random.Generator) -> int:
    """Return a token id; `logits`, shape (n,), stays as it is. A logit of -inf is never sampled.

    Raises EngineError for logits that are not numbers.
    """
    best = int(logits.argmax())  # of a NaN, if there is one
    if not np.isfinite(logits[best]):
        raise EngineError("the model's logits are not numbers; the file or the memory is damaged")
    if params.temperature == 0:
        return best
    tokens = likeliest(logits, params.top_k) if 0 < params.top_k < len(logits) else None
    # probabilities, not normalised: the likeliest weighs 1
    weights: Floats = (logits if tokens is None else logits[tokens]) - logits[best]
    # the factor is bounded so that float32 does not overflow: all weights but the largest are 0 long before
    np.multiply(weights, np.float32(min(1 / params.temperature, 1e30)), out=weights)
    np.exp(weights, out=weights)
    index = _sample_weighted(weights, params.top_p, params.min_p, random)
    return index if tokens is None else int(tokens[index])


def likeliest(logits: Floats, k: int) -> npt.NDArray[np.intp]:
    """Return the ids of the `k` largest logits, and of those equal to the smallest of them, by id."""
    return np.flatnonzero(logits >= np.partition(logits, len(logits) - k)[len(logits) - k])


def _sample_weighted(weights: Floats, top_p: float, min_p: float, random: np.random.Generator) -> int:
    """Return an index sampled from `weights`, of which the largest is 1, after both cuts."""
    mass = top_p * float(weights.sum())
    if min_p > 0:
        weights = weights * (weights >= np.float32(min_p))
    while True:
        index = _pick(weights, random)
        if top_p >= 1:
            return index
        likelier = weights * (weights > weights[index])
        if float(likelier.sum()) <= mass:
            return index
        weights = likelier


def _pick(weights: Floats, random: np.random.Generator) -> int:
    """Return an index sampled in proportion to `weights`; not all are 0."""
    starts = np.arange(0, len(weights), _BLOCK)
    start = int(starts[_pick_few(np.add.reduceat(weights, starts), random)])
    return start + _pick_few(weights[start : start + _BLOCK], random)


def _pick_few(weights: Floats, random: np.random.Generator) -> int:
    cumulative = weights.cumsum(dtype=np.float64)
    index = int(cumulative.searchsorted(random.random() * cumulative[-1], side="right"))
    # where the product was rounded up to the whole mass, the last index with a weight
    return index if index < len(weights) else int(cumulative.searchsorted(cumulative[-1]))
