"""Drafts: guesses of the next tokens, copied from where the conversation's end stood before, verified in one batch.

The sampler chooses a token at each position of a batch, and a draft is accepted as far as it agrees. So the answer is
exactly the one that single steps would give. A draft pays only where a batch of several tokens costs much less than
single steps, and where drafts are accepted: `choose` weighs the one, measured in `latency.py`, against the other, which
`Drafter` learns from every token of an answer, drafted or not.
Methods: Saxena, "Prompt Lookup Decoding" (2023); Hu et al., "SAM Decoding" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from .automaton import SuffixAutomaton
from .latency import LatencyModel

MAX_DRAFT = 15  # drafted tokens in a batch, of all answers together: with one token before them, four rows of 4
_PRIOR = (0.0, 0.1, 0.4, 0.6, 0.7, 0.75, 0.8)  # chance of a token after 0, 1, 2, 4, 8, 16, 32 that are equal
_DECAY = 0.9  # weight of a chance when a token is added to what it was learned from
_LEAST_CHANCE = 0.05  # of a token that is drafted
_LEAST_GAIN = 1.05  # speed of a batch with drafts, relative to one without


@dataclass(frozen=True)
class Guess:
    """Tokens that may come next, and for each the chance that it and all before it are right."""

    tokens: list[int]
    chances: list[float]


class Drafter:
    """The drafter of one answer.

    Args:
        tokens: prompt and answer; the caller's list, which may grow between guesses.
        begin: where the answer begins among them.
    """

    def __init__(self, tokens: Sequence[int], begin: int) -> None:
        self._tokens = tokens
        self._begin = begin
        self._text = SuffixAutomaton()
        self._chances = list(_PRIOR)  # by the bit length of how many tokens are equal

    def guess(self, limit: int) -> Guess:
        """At most `limit` tokens that may come next; none where the end of the text never occurred before."""
        for place in range(len(self._text.tokens), len(self._tokens)):
            self._learn(place, self._tokens[place])
            self._text.extend(self._tokens[place])
        length, place = self._text.repeated()
        if not length:
            return Guess([], [])
        each = [self._chances[_bucket(length + i)] for i in range(limit)]
        chances = [chance for chance in accumulate(each, mul) if chance >= _LEAST_CHANCE]
        copy = self._text.tokens[place : place + len(chances)].tolist()
        period = len(self._tokens) - place
        while len(copy) < len(chances):  # it reached the end: go on with the copy itself
            copy.append(copy[len(copy) - period])
        return Guess(copy, chances)

    def _learn(self, place: int, token: int) -> None:
        """Learn whether the guess of the answer's next token would have been right."""
        length, copied = self._text.repeated()
        if place > self._begin and length:
            bucket = _bucket(length)
            self._chances[bucket] += (1 - _DECAY) * ((self._text.tokens[copied] == token) - self._chances[bucket])


def choose(guesses: Sequence[Guess], latency: LatencyModel, limit: int) -> list[list[int]]:
    """How much of each answer's guess to draft: as much as makes the whole batch fastest, by expected tokens a second.

    Args:
        guesses: one for each token that is in the batch anyway.
        limit: drafted tokens that there is room for.
    """
    n = len(guesses)
    ranked = sorted((-chance, i) for i, guess in enumerate(guesses) for chance in guess.chances)[:limit]
    best, expected, single = 0, float(n), latency.seconds(n)
    if single is not None:
        speed = _LEAST_GAIN * n / single
        for drafted, (chance, _) in enumerate(ranked, 1):
            expected -= chance
            if latency.untried(n + drafted) and expected >= (n + drafted) / 2:
                best = drafted
                break
            seconds = latency.seconds(n + drafted)
            if seconds is not None and expected / seconds > speed:
                best, speed = drafted, expected / seconds
    taken = [i for _, i in ranked[:best]]
    return [guess.tokens[: taken.count(i)] for i, guess in enumerate(guesses)]


def _bucket(length: int) -> int:
    return min(length.bit_length(), len(_PRIOR) - 1)
