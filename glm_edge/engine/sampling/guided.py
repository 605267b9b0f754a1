"""Drawing with a mask: from the tokens that a grammar allows, exactly as if all others had a logit of -inf.

Asking a grammar about all 65,024 tokens takes many milliseconds, about a hundred of them well below one. So the
likeliest are asked first. If what they answer settles which tokens the cuts keep, whatever the grammar says of the
rest, the token is drawn from those and the draw is exact: nothing was assumed about the rest but its mass, which lies
between none and all of it. Where no token is cut off the mass of all allowed ones is never known that way; there one
is drawn from all tokens and kept if it is allowed, otherwise drawn again with the full mask. That is exact as well:
with p the probability of a token and a that of all allowed ones, p + (1 - a) * p / a = p / a.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...types import SamplingParams
from .draw import Drawer, Floats, likeliest

_ASKED = 128  # likeliest tokens that the grammar is asked about first
_SLACK = 2e-5  # relative error of a sum of float32 weights, generously


class Mask(Protocol):
    """What may come next; `llama_grammar.Grammar` is one."""

    eos: int

    def allowed(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]: ...
    def accept(self, token: int) -> None: ...
    def close(self) -> None: ...


class ConstrainedSampler:
    """Draws by the cuts of `params` from what `mask` allows."""

    def __init__(self, params: SamplingParams, drawer: Drawer, mask: Mask) -> None:
        self._params = params
        self._drawer = drawer
        self._mask = mask
        self._greedy = params.temperature == 0
        self._uncut = not self._greedy and params.top_k == 0 and params.top_p >= 1 and params.min_p == 0

    def draw(self, logits: Floats) -> int:
        """A token that the mask allows; end of text where it allows none."""
        if self._uncut:
            token = self._drawer.draw(logits)
            if self._mask.allowed(np.array([token], np.int32))[0]:
                return token
        elif (settled := self._from_likeliest(logits)) is not None:
            return settled
        allowed = self._mask.allowed(np.arange(len(logits), dtype=np.int32))
        if not allowed.any():
            return self._mask.eos
        return self._drawer.draw(np.where(allowed, logits, np.float32(-np.inf)))

    def _from_likeliest(self, logits: Floats) -> int | None:
        """Draw, if the likeliest tokens settle it."""
        if len(logits) <= _ASKED:
            return None
        tokens = likeliest(logits, _ASKED)  # with those equal to the last, so all others are less likely than these
        if len(tokens) > 4 * _ASKED:
            return None
        tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
        allowed = self._mask.allowed(tokens.astype(np.int32))
        if self._greedy or not allowed.any():
            return int(tokens[allowed.argmax()]) if allowed.any() else None
        weights, mass = self._drawer.weights(logits)
        asked = weights[tokens].astype(np.float64)
        unknown = max(0.0, mass - float(asked.sum())) + _SLACK * mass
        kept = asked[allowed]  # likeliest first
        chances = self._cut(kept, asked[-1], unknown)
        if chances is None:
            return None
        return int(tokens[allowed][self._drawer.pick(chances)])

    def _cut(self, kept: npt.NDArray[np.float64], least: float, unknown: float) -> npt.NDArray[np.float64] | None:
        """The weights of `kept` with 0 where a cut drops one; None if the tokens not asked about could change it.

        Args:
            kept: weights of the allowed among the likeliest tokens, falling.
            least: all tokens not asked about weigh less than this.
            unknown: what they weigh at most, together.
        """
        top_k, top_p, min_p = self._params.top_k, self._params.top_p, self._params.min_p
        settled = False
        if top_k:
            if len(kept) < top_k:
                return None
            kept = kept[kept >= kept[top_k - 1]]
            settled, unknown = True, 0.0
        cumulative = np.concatenate([[0.0], kept.cumsum()])
        likelier = cumulative[np.searchsorted(-kept, -kept)]  # what is strictly likelier than each
        surely = likelier <= top_p * cumulative[-1]
        perhaps = likelier <= top_p * (cumulative[-1] + unknown)
        likely_enough = kept >= min_p * kept[0]
        settled = settled or least < min_p * kept[0] or cumulative[-1] > top_p * (cumulative[-1] + unknown)
        if not settled or bool(((surely != perhaps) & likely_enough).any()):
            return None
        result: npt.NDArray[np.float64] = kept * (surely & likely_enough)
        return result
