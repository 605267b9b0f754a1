"""Drawing a token out of logits: exact, in the order temperature, top_k, top_p, min_p, without sorting all of them.

Each of the three cuts keeps the likeliest tokens down to some weight, so a token passes them by its own weight and by
what is likelier. The nucleus of top_p is the smallest set of likeliest tokens whose mass reaches p: a token belongs to
it when the tokens likelier than it weigh at most p. Sorting 65,024 weights to know that costs milliseconds. Instead a
token is drawn from a set that contains the nucleus, at first from all tokens. If it is in the nucleus, then it is an
exact draw from it, since it was drawn in proportion to its weight. If not, the nucleus lies within the tokens that are
likelier: they become the set, and the draw is repeated. Like quickselect, each repeat halves what is left on average.

Weights are float32 in buffers that are kept. They are summed by columns of 64, in one pass that the processor does for
many columns at once, with a relative error below 1e-5; only the column sums are accumulated, as float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import EngineError
from ...types import SamplingParams

Floats = npt.NDArray[np.float32]
_ROWS = 64  # weights in a column


class Drawer:
    """Draws by the cuts of `params` with the random numbers of `random`; keeps its buffers from token to token."""

    def __init__(self, params: SamplingParams, random: np.random.Generator) -> None:
        self._params = params
        self._random = random
        self._buffers: tuple[Floats, Floats] | None = None  # (_ROWS, columns) each

    def draw(self, logits: Floats) -> int:
        """A token; `logits`, shape (n,), is left as it is. A logit of -inf is never drawn."""
        if self._params.temperature == 0:
            return int(logits.argmax())
        if 0 < self._params.top_k < len(logits):
            kept = likeliest(logits, self._params.top_k)
            return int(kept[self._draw(logits[kept])])
        return self._draw(logits)

    def weights(self, logits: Floats) -> tuple[Floats, float]:
        """Probabilities after temperature, not normalised (the likeliest is 1), and their sum.

        Shape (n,), in a buffer that the next call overwrites.
        """
        weights, _ = self._buffers_for(len(logits))
        flat: Floats = weights.reshape(-1)[: len(logits)]
        np.subtract(logits, logits.max(), out=flat)
        # bounded, so that nothing overflows float32: all but the likeliest weigh 0 long before
        np.multiply(flat, np.float32(min(1 / self._params.temperature, 1e30)), out=flat)
        np.exp(flat, out=flat)
        mass = float(weights.sum(axis=0).sum(dtype=np.float64))
        if not 1 <= mass < np.inf:
            raise EngineError("the model's logits are not numbers; the file or the memory is damaged")
        return flat, mass

    def _draw(self, logits: Floats) -> int:
        _, mass = self.weights(logits)
        weights, spare = self._buffers_for(len(logits))
        needed = self._params.top_p * mass
        if self._params.min_p > 0:
            np.multiply(weights, weights >= np.float32(self._params.min_p), out=weights)
        columns = weights.sum(axis=0)
        while True:
            row, column = self._pick(weights, columns)
            token = int(row * weights.shape[1] + column)
            if self._params.top_p >= 1:
                return token
            np.multiply(weights, weights > weights[row, column], out=spare)
            columns = spare.sum(axis=0)
            if float(columns.sum(dtype=np.float64)) <= needed:
                return token
            weights, spare = spare, weights

    def _pick(self, weights: Floats, columns: Floats) -> tuple[int, int]:
        """(row, column) drawn in proportion to `weights`, whose column sums are `columns`."""
        column = self.pick(columns)
        return self.pick(weights[:, column]), column

    def pick(self, weights: Floats | npt.NDArray[np.float64]) -> int:
        """An index drawn in proportion to `weights`, shape (n,); not all are 0."""
        cumulative = weights.cumsum(dtype=np.float64)
        drawn = int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))
        if drawn < len(weights):
            return drawn
        return int(cumulative.searchsorted(cumulative[-1]))  # the product was rounded up to the whole mass

    def _buffers_for(self, n: int) -> tuple[Floats, Floats]:
        """Two buffers for n weights; what is beyond them in the first is 0."""
        columns = -(-n // _ROWS)
        if self._buffers is None or self._buffers[0].shape[1] != columns:
            self._buffers = np.empty((_ROWS, columns), np.float32), np.empty((_ROWS, columns), np.float32)
        self._buffers[0].reshape(-1)[n:] = 0
        return self._buffers


def likeliest(logits: Floats, k: int) -> npt.NDArray[np.intp]:
    """Ids of the k largest logits, and of those equal to the smallest of them, in no order."""
    smallest = np.partition(logits, len(logits) - k)[len(logits) - k]
    return np.flatnonzero(logits >= smallest)
