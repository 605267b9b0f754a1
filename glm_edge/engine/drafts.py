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


@dataclass(frozen=True)
class Copy:
    """A place that the next tokens could be copied from: after a state of a text."""

    source: int
    text: SuffixAutomaton
    state: int
    length: int  # tokens before it that are equal

    @property
    def kind(self) -> int:
        return _kind(self.text, self.source, self.state, self.length)


class History:
    """What was written for the requests of one scope: two automata, the older dropped when the newer is full."""

    def __init__(self) -> None:
        self.texts: list[SuffixAutomaton] = []
        self.chances = [*_PRIOR] * 4  # by `_kind`

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
        """Remember what was written from `begin` on, if anything."""
        if len(tokens) <= begin:
            return
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
        copy = max(copies, key=lambda copy: (self._chances[copy.kind], copy.length))
        guess, chance, place, state = Guess([], []), 1.0, copy.text.place(copy.state), copy.state
        for i in range(limit):
            # at the end of the conversation the copy goes on with itself
            end = place + i - len(copy.text.tokens)
            token = copy.text.tokens[place + i] if end < 0 else guess.tokens[end]
            chance *= self._chances[_kind(copy.text, copy.source, state, copy.length + i)]
            if token == BREAK or chance < _LEAST_CHANCE:
                break
            guess.tokens.append(token)
            guess.chances.append(chance)
            state = max(0, copy.text.step(state, token))
        return guess

    def _copies(self) -> list[Copy]:
        """What could be copied."""
        found = [Copy(_CONVERSATION, self._text, *self._text.repeated())]
        found += [Copy(_HISTORY, past, *end) for past, end in zip(self._past, self._ends, strict=True)]
        return [copy for copy in found if copy.length]

    def _learn(self, token: int) -> None:
        """Learn which copies were right about the next token, whether it was drafted or not."""
        for copy in self._copies():
            right = copy.text.tokens[copy.text.place(copy.state)] == token
            self._chances[copy.kind] += (1 - _DECAY) * (right - self._chances[copy.kind])


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


def _kind(text: SuffixAutomaton, source: int, state: int, length: int) -> int:
    """Which chance a copied token has: by source, whether others came there too, and how much before it is equal."""
    return len(_PRIOR) * (2 * source + text.forks(state)) + min(length.bit_length(), len(_PRIOR) - 1)
