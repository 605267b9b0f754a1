"""The suffix automaton finds what a search of the whole text finds."""

from __future__ import annotations

import random

import pytest

from glm_edge.engine.automaton import SuffixAutomaton


def longest_end(text: list[int], of: list[int]) -> int:
    """Length of the longest end of `of` that is part of `text`."""
    parts = {tuple(text[i : i + n]) for n in range(1, len(of) + 1) for i in range(len(text) - n + 1)}
    return max((n for n in range(1, len(of) + 1) if tuple(of[-n:]) in parts), default=0)


def followers(text: list[int], n: int) -> set[int]:
    """The tokens that came after the last n of a text."""
    return {text[i + n] for i in range(len(text) - n) if text[i : i + n] == text[-n:]}


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_the_longest_repeated_end_and_where_it_stood(seed: int) -> None:
    draw = random.Random(seed)
    automaton, text, other = SuffixAutomaton(), list[int](), list[int]()
    state, length = 0, 0
    for _ in range(50):
        token = draw.randrange(1 + seed % 4)
        text.append(token)
        automaton.extend(token)
        found, repeated = automaton.repeated()
        place = automaton.place(found)
        assert repeated == longest_end(text[:-1], text[1:])
        assert not repeated or automaton.forks(found) == (len(followers(text, repeated)) > 1)
        assert text[place - repeated : place] == text[len(text) - repeated :]
        assert place < len(text)
        other.append(draw.randrange(1 + seed % 4))  # a reader, while the text grows
        state, length = automaton.follow(state, length, other[-1])
        assert length == longest_end(text, other)
        place = automaton.place(state)
        assert text[place - length : place] == other[len(other) - length :]


def test_the_newest_place_counts() -> None:
    automaton = SuffixAutomaton()
    for token in [1, 2, 3, 8, 1, 2, 4, 9, 1, 2]:
        automaton.extend(token)
    state, length = automaton.repeated()
    assert (length, automaton.place(state)) == (2, 6)
