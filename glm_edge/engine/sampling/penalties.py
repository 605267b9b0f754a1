"""What changes the logits before a token is sampled: logit_bias, then the penalties on tokens that came before.

repetition_penalty is Hugging Face's (RepetitionPenaltyLogitsProcessor), which ChatGLM2-6B's code runs: the logit of
every token in prompt or answer is divided by it where positive and multiplied where negative. presence_penalty and
frequency_penalty are OpenAI's: logit - count * frequency - (count > 0) * presence, with counts of the answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...types import SamplingParams
from .sample import Floats


class Penalties:
    """The bias and penalties of one answer, with the tokens that they count.

    Args:
        prompt: token ids; they count for repetition_penalty only.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int] = ()) -> None:
        self._params = params
        self._biased = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(params.logit_bias.values(), np.float32)
        self._repeats = params.repetition_penalty != 1
        self._seen = set(prompt) if self._repeats else set()
        self._counts: dict[int, int] = {}  # of the answer's tokens
        self._changed: Floats | None = None
        self.active = bool(len(self._bias) or self._repeats or params.presence_penalty or params.frequency_penalty)

    def accept(self, token: int) -> None:
        """Count `token` as part of the answer."""
        if self.active:
            self._counts[token] = self._counts.get(token, 0) + 1
            if self._repeats:
                self._seen.add(token)

    def apply(self, logits: Floats) -> Floats:
        """Return changed logits, in a buffer that the next call overwrites; `logits` itself where nothing changes."""
        if not self.active:
            return logits
        if self._changed is None or len(self._changed) != len(logits):
            self._changed = np.empty_like(logits)
        changed = self._changed
        np.copyto(changed, logits)
        changed[self._biased] += self._bias
        if self._repeats:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(self._params.repetition_penalty)
            there = changed[seen]
            changed[seen] = np.where(there < 0, there * penalty, there / penalty)
        if self._counts and (self._params.presence_penalty or self._params.frequency_penalty):
            tokens = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            changed[tokens] -= counts * np.float32(self._params.frequency_penalty)
            changed[tokens] -= np.float32(self._params.presence_penalty)
        return changed
