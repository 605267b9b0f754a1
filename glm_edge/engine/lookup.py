"""Prompt lookup: drafts of the next tokens, copied from an earlier place where the last tokens stood.

One batch verifies a draft: the sampler chooses a token at each position, and the draft is accepted as far as it agrees.
So the answer is exactly the one that single steps would give. A draft pays only where a batch of several tokens costs
much less than single steps, and where drafts are accepted. Both are measured, and decide about each draft.
Method: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from .latency import LatencyModel

_NGRAM = 3  # tokens that must be equal at both places
_SIZES = (3, 7)  # draft lengths: with the token before them rows of 4, which is how the kernels work
MAX_DRAFT = max(_SIZES)
_PRIOR = 0.6  # probability that a drafted token is accepted, before anything is measured
_DECAY = 0.85  # weight of the old acceptance rate when a token is added


class Lookup:
    """The drafter of one answer: an index of its n-grams and its acceptance rate.

    Args:
        tokens: prompt and answer; the caller's list, which may grow between drafts.
    """

    def __init__(self, tokens: Sequence[int], latency: LatencyModel) -> None:
        self._tokens = tokens
        self._latency = latency
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where its continuation begins
        self._indexed = 0  # n-grams that end before this index are in _after
        self._rate = _PRIOR
        self._guess: tuple[int, int] | None = None  # (index, token expected there) of what was not drafted

    def draft(self, limit: int) -> list[int]:
        """A draft of the next tokens, at most `limit`; empty where none is known, or where verifying would not pay."""
        end = len(self._tokens)
        if end < _NGRAM:
            return []
        self._index(end - 1)
        if self._guess is not None:  # compared too: that costs nothing, and the rate may have changed
            place, token = self._guess
            self._guess = None
            self._learn(place < end and self._tokens[place] == token)
        start = self._after.get(tuple(self._tokens[end - _NGRAM : end]))
        if start is None:
            return []
        best, gain = 0, 1.0
        for size in _SIZES:
            expected = sum(self._rate**i for i in range(size + 1))
            if size <= limit and (worth := self._latency.worth(size + 1, expected)) > gain:
                best, gain = size, worth
        if not best:
            self._guess = end, self._tokens[start]
        draft = list(self._tokens[start : start + best])
        while len(draft) < best:  # the copy reached the end: go on with the copy itself
            draft.append(draft[len(draft) - (end - start)])
        return draft

    def verified(self, drafted: int, accepted: int) -> None:
        """Learn that the sampler chose the first `accepted` of `drafted` tokens."""
        for hit in [True] * accepted + [False] * (drafted > accepted):
            self._learn(hit)

    def _learn(self, hit: bool) -> None:
        self._rate = _DECAY * self._rate + (1 - _DECAY) * hit

    def _index(self, end: int) -> None:
        """Index the n-grams that end before `end`; the newest place of each counts."""
        for stop in range(max(self._indexed, _NGRAM), end + 1):
            self._after[tuple(self._tokens[stop - _NGRAM : stop])] = stop
        self._indexed = max(self._indexed, end + 1)
