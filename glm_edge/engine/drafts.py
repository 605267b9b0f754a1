"""Drafts: guesses of the next tokens, copied from where the end of the text stood before, verified in one batch.

Copied from prompt and answer so far, and from what this server wrote before for requests of the same scope. The sampler
chooses a token at each position of a batch, and a draft is accepted as far as it agrees. So the answer is exactly the
one that single steps would give. A draft pays only where a batch of several tokens costs much less than single steps,
and where drafts are accepted: `choose` weighs the one, measured in `latency.py`, against the other, which `Drafter`
learns from every token of an answer, drafted or not.
Methods: Saxena, "Prompt Lookup Decoding" (2023); Hu et al., "SAM Decoding" (2024).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from .automaton import BREAK, SuffixAutomaton
from .latency import LatencyModel

MAX_DRAFT = 15  # drafted tokens in a batch, of all answers together: with one token before them, four rows of 4
_PRIOR = (0.0, 0.1, 0.5, 0.7, 0.8, 0.85, 0.9)  # chance of a token after 0, 1, 2, 4, 8, 16, 32 that are equal
_DECAY = 0.9  # weight of a chance when a token is added to what it was learned from
_LEAST_CHANCE = 0.05  # of a token that is drafted
_LEAST_GAIN = 1.05  # speed of a batch with drafts, relative to one without
_CONVERSATION, _HISTORY = 0, 1  # what is copied from
_KEPT = 1 << 16  # tokens of all histories, about 8 MB
_HALF = 1 << 14  # tokens of an automaton of a history, at most
_SCOPES = 256  # histories
_BEFORE = 16  # tokens of the prompt that are kept with an answer


@dataclass(frozen=True)
class Guess:
    """Tokens that may come next, and for each the chance that it and all before it are right."""

    tokens: list[int]
    chances: list[float]


class History:
    """What was written for the requests of one scope: two automata, the older dropped when the newer is full."""

    def __init__(self) -> None:
        self.texts: list[SuffixAutomaton] = []
        self.chances = [list(_PRIOR), list(_PRIOR)]  # of copies from a conversation and from here, by `_bucket`

    def __len__(self) -> int:
        return sum(len(text.tokens) for text in self.texts)

    def add(self, tokens: Sequence[int]) -> None:
        """Add an answer, with some tokens before it."""
        tokens = tokens[1 - _HALF :]
        if not self.texts or len(self.texts[-1].tokens) + len(tokens) >= _HALF:
            self.texts = [*self.texts[-1:], SuffixAutomaton()]
        for token in (*tokens, BREAK):
            self.texts[-1].extend(token)


class Histories:
    """The history of each scope, least recently used first; bounded together."""

    def __init__(self) -> None:
        self._of: OrderedDict[bytes, History] = OrderedDict()

    def of(self, scope: bytes) -> History:
        found = self._of.setdefault(scope, History())
        self._of.move_to_end(scope)
        return found

    def add(self, scope: bytes, tokens: Sequence[int], begin: int) -> None:
        """Remember what was written from `begin` on."""
        self.of(scope).add(tokens[max(0, begin - _BEFORE) :])
        while sum(map(len, self._of.values())) > _KEPT or len(self._of) > _SCOPES:
            self._of.popitem(last=False)


class Drafter:
    """The drafter of one answer.

    Args:
        tokens: prompt and answer; the caller's list, which may grow between guesses.
        begin: where the answer begins among them.
        history: of its scope alone, since how fast an answer comes tells what was drafted.
    """

    def __init__(self, tokens: Sequence[int], begin: int, history: History) -> None:
        self._tokens = tokens
        self._begin = begin
        self._text = SuffixAutomaton()
        self._past = list(history.texts)
        self._ends = [(0, 0)] * len(self._past)  # state and length of the longest end of `tokens` in each of them
        self._chances = history.chances

    def guess(self, limit: int) -> Guess:
        """At most `limit` tokens that may come next; none where the end of the text never occurred before."""
        for place in range(len(self._text.tokens), len(self._tokens)):
            token = self._tokens[place]
            if place > self._begin:
                self._learn(token)
            self._text.extend(token)
            if place >= self._begin - _BEFORE:
                self._ends = [past.follow(*end, token) for past, end in zip(self._past, self._ends, strict=True)]
        copies = self._copies()
        if not copies:
            return Guess([], [])
        source, length, text, place = max(copies, key=lambda copy: (self._chances[copy[0]][_bucket(copy[1])], copy[1]))
        each = [self._chances[source][_bucket(length + i)] for i in range(limit)]
        chances = [chance for chance in accumulate(each, mul) if chance >= _LEAST_CHANCE]
        copy = text.tokens[place : place + len(chances)].tolist()
        if BREAK in copy:
            copy = copy[: copy.index(BREAK)]
        elif source == _CONVERSATION:
            period = len(text.tokens) - place
            while len(copy) < len(chances):  # it reached the end: go on with the copy itself
                copy.append(copy[len(copy) - period])
        return Guess(copy, chances[: len(copy)])

    def _copies(self) -> list[tuple[int, int, SuffixAutomaton, int]]:
        """(source, tokens that are equal, text, where they end in it) of what could be copied."""
        length, place = self._text.repeated()
        found = [(_CONVERSATION, length, self._text, place)] if length else []
        return found + [
            (_HISTORY, length, past, past.place(state))
            for past, (state, length) in zip(self._past, self._ends, strict=True)
            if length
        ]

    def _learn(self, token: int) -> None:
        """Learn which copies were right about the next token, whether it was drafted or not."""
        for source, length, text, place in self._copies():
            chances, bucket = self._chances[source], _bucket(length)
            chances[bucket] += (1 - _DECAY) * ((text.tokens[place] == token) - chances[bucket])


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
