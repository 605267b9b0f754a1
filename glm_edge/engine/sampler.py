"""Drawing the next token: exact, in the official order (temperature, then top_p), without sorting the vocabulary.

The nucleus of top_p is the smallest set of most likely tokens whose mass reaches p. Sorting 65,024 probabilities to
find it costs milliseconds. Instead a token is drawn from a set that contains the nucleus, at first all tokens. If the
tokens likelier than it weigh at most p, it is in the nucleus, and since it was drawn in proportion to its
probability it is an exact draw from it. If not, the nucleus lies within the tokens that are likelier: they become the
set, and the draw is repeated. Like quickselect, each repeat halves what is left on average.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..types import SamplingParams


class Sampler:
    """The sampler state of one answer: its parameters and its random numbers.

    Args:
        index: which of the request's answers; each has random numbers of its own.
    """

    def __init__(self, params: SamplingParams, index: int = 0) -> None:
        self._params = params
        self._random = np.random.default_rng(None if params.seed is None else [params.seed, index])

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token. `logits`, shape (n_vocab,), is left as it is."""
        if self._params.temperature == 0:
            return int(np.argmax(logits))
        weights = np.exp((logits - logits.max()) / np.float32(self._params.temperature))
        return self._draw_nucleus(weights)

    def _draw_nucleus(self, weights: npt.NDArray[np.float32]) -> int:
        """A token drawn from the nucleus of unnormalised `weights`, shape (n,)."""
        needed = self._params.top_p * float(weights.sum(dtype=np.float64))  # the mass that the nucleus reaches
        tokens: npt.NDArray[np.intp] | None = None  # ids of what is left in `weights`; None is all
        while True:
            # float64: at 65,024 addends a float32 running sum would lose the tail
            cumulative = weights.cumsum(dtype=np.float64)
            drawn = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
            drawn = min(drawn, len(weights) - 1)
            likelier = weights > weights[drawn]
            if float(weights[likelier].sum(dtype=np.float64)) <= needed:
                return drawn if tokens is None else int(tokens[drawn])
            tokens = np.flatnonzero(likelier) if tokens is None else tokens[likelier]
            weights = weights[likelier]
