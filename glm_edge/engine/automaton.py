"""A suffix automaton: which part of a text's end stood in it before, and where; in O(1) amortised a token.

Each state is a set of parts of the text that end at the same places. `link` leads to the state of the longest shorter
suffix that ends at more places too, so the link of the whole text's state is its longest end that occurred before.
A state's first transition is the token after its first place in the text, so it needs no table; others are in a dict of
those states that have several. A token takes 25 to 290 bytes and 2 to 7 microseconds, the most in a text of two
different tokens.
Method: Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985).
"""

from __future__ import annotations

from array import array

_MARKED = 16  # suffixes whose newest place is noted with each token: O(1) where a text repeats one token
BREAK = -1  # a token that no text has: nothing is found across it


class SuffixAutomaton:
    """The suffix automaton of `tokens`, which grows by `extend`."""

    def __init__(self) -> None:
        self.tokens = array("i")
        self._length = array("i", [0])  # of the longest part of each state
        self._link = array("i", [-1])
        self._first = array("i", [0])  # where the first place of each state ends
        self._newest = array("i", [0])  # where a late place ends; the newest but for the rarest texts
        self._target = array("i", [-1])  # the state after the token at `first`
        self._others: dict[int, dict[int, int]] = {}  # state -> the states after other tokens
        self._last = 0  # state of the whole text

    def extend(self, token: int) -> None:
        """Append a token."""
        place = len(self.tokens)
        self._mark(self._last, place)
        self.tokens.append(token)
        new, state = self._add(self._length[self._last] + 1, 0, place + 1, -1), self._last
        self._last = new
        while state >= 0 and (after := self.step(state, token)) < 0:
            self._connect(state, token, new)
            state = self._link[state]
        if state < 0:
            return
        if self._length[after] != self._length[state] + 1:
            after = self._split(state, token, after)
        self._link[new] = after

    def step(self, state: int, token: int) -> int:
        """The state after `token`; -1 where the text has no such part."""
        target = self._target[state]
        if target >= 0 and self.tokens[self._first[state]] == token:
            return target
        others = self._others.get(state)
        return -1 if others is None else others.get(token, -1)

    def repeated(self) -> tuple[int, int]:
        """(state, length) of the longest end of the text that stood in it before; (0, 0) if none."""
        state = max(0, self._link[self._last])
        return state, self._length[state]

    def follow(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Move a reader of another text by a token: (state, length) of the longest end of it that is in this text."""
        while self._link[state] >= 0 and length <= self._length[self._link[state]]:
            state = self._link[state]  # it was split since
        while (after := self.step(state, token)) < 0:
            state = self._link[state]
            if state < 0:
                return 0, 0
            length = self._length[state]
        while length + 1 <= self._length[self._link[after]]:
            after = self._link[after]
        return after, length + 1

    def place(self, state: int) -> int:
        """Where a late place of a state ends."""
        return self._newest[state]

    def forks(self, state: int) -> bool:
        """Whether different tokens came after a state, at its places in the text."""
        return state in self._others

    def _mark(self, state: int, place: int) -> None:
        """Note a place of the text's suffixes, the longest first."""
        for _ in range(_MARKED):
            if state <= 0:
                return
            self._newest[state] = place
            state = self._link[state]

    def _add(self, length: int, link: int, first: int, target: int) -> int:
        self._length.append(length)
        self._link.append(link)
        self._first.append(first)
        self._newest.append(first)
        self._target.append(target)
        return len(self._length) - 1

    def _connect(self, state: int, token: int, target: int) -> None:
        """Let `token` lead from a state to `target`."""
        if self.tokens[self._first[state]] == token:
            self._target[state] = target
        else:
            self._others.setdefault(state, {})[token] = target

    def _split(self, state: int, token: int, old: int) -> int:
        """Give the parts of `old` that are one longer than those of `state` a state of their own."""
        new = self._add(self._length[state] + 1, self._link[old], self._first[old], self._target[old])
        self._newest[new] = self._newest[old]
        if old in self._others:
            self._others[new] = dict(self._others[old])
        while state >= 0 and self.step(state, token) == old:
            self._connect(state, token, new)
            state = self._link[state]
        self._link[old] = new
        return new
