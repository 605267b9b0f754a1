"""Prompt lookup: drafts of the next tokens, taken from where the last ones stood before in the prompt or the answer.

A draft is verified in one batch: the token that the sampler draws at each of its places is compared with it, so what
is written is exactly what would have been written one by one. It pays only where several tokens in a batch cost much
less than one by one and where drafts hold; both are measured while answers are written, and decide about each draft.
Method: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from .latency import LatencyModel

_NGRAM = 3  # tokens that must have stood there before
_SIZES = (3, 7)  # draft lengths: with the token before them rows of 4, which is how the kernels work
MAX_DRAFT = max(_SIZES)
_PRIOR = 0.6  # how likely a drafted token holds, before anything is known
_MEMORY = 0.85  # how slowly the hit rate forgets


class Lookup:
    """The drafts of one answer.

    Args:
        tokens: prompt and answer; the caller's list, which may grow between drafts.
    """

    def __init__(self, tokens: Sequence[int], latency: LatencyModel) -> None:
        self._tokens = tokens
        self._latency = latency
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where its continuation begins
        self._indexed = 0  # n-grams that end before this place are in _after
        self._rate = _PRIOR
        self._guess: tuple[int, int] | None = None  # a place and the token that was expected there, but not drafted

    def draft(self, room: int) -> list[int]:
        """Up to `room` tokens that may come next; none where none are known or verifying them would not pay."""
        end = len(self._tokens)
        if end < _NGRAM:
            return []
        self._index(end - 1)
        if self._guess is not None:  # what was not drafted is compared too: that costs nothing, and things may change
            place, token = self._guess
            self._guess = None
            self._learn(place < end and self._tokens[place] == token)
        start = self._after.get(tuple(self._tokens[end - _NGRAM : end]))
        if start is None:
            return []
        best, gain = 0, 1.0
        for size in _SIZES:
            expected = sum(self._rate**i for i in range(size + 1))
            if size <= room and (worth := self._latency.worth(size + 1, expected)) > gain:
                best, gain = size, worth
        if not best:
            self._guess = end, self._tokens[start]
        draft = list(self._tokens[start : start + best])
        while len(draft) < best:  # it ran into the end: what repeats goes on repeating
            draft.append(draft[len(draft) - (end - start)])
        return draft

    def verified(self, drafted: int, held: int) -> None:
        """Of `drafted` tokens the first `held` were right."""
        for hit in [True] * held + [False] * (drafted > held):
            self._learn(hit)

    def _learn(self, hit: bool) -> None:
        self._rate = _MEMORY * self._rate + (1 - _MEMORY) * hit

    def _index(self, end: int) -> None:
        """Learn the n-grams that end before `end`; the newest place of each is the one that counts."""
        for stop in range(max(self._indexed, _NGRAM), end + 1):
            self._after[tuple(self._tokens[stop - _NGRAM : stop])] = stop
        self._indexed = max(self._indexed, end + 1)
