"""Markdown in a terminal: every character stays, whatever the parts it comes in; nothing that a terminal obeys."""

from __future__ import annotations

import random
import re

import pytest

from glm_edge.cli.terminal.markdown import Colours, has_colours

TEXT = (
    "# Title\n\nA **bold** word, `code` and 2 * 3 ** 4.\n- one\n* two\n```python\n# no heading **x**\n```\n----\n你好\n"
)


def coloured(*parts: str) -> str:
    colours = Colours()
    return "".join(map(colours.feed, parts)) + colours.end()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("seed", range(20))
def test_every_character_stays_and_parts_do_not_matter(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices("#*`- ab\n", k=200)) if seed else TEXT
    cuts = sorted(chance.sample(range(len(text)), 10))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert plain(coloured(*parts)) == text
    assert coloured(*parts) == coloured(text)


def test_what_is_marked_has_a_colour_and_the_end_has_none() -> None:
    shown = coloured(TEXT)
    for part in ("\x1b[1;36m# Title\x1b[0m", "**bold**\x1b[0m word", "\x1b[33m`code`\x1b[0m", "\x1b[36m-\x1b[0m one"):
        assert part in shown
    assert "\x1b[33m# no heading **x**" in shown
    assert coloured("**open").endswith("\x1b[0m")


def test_what_a_terminal_would_obey_is_replaced() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\rover\b\x00\u202etxt"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", plain(coloured(evil)))


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({}, False)],
)
def test_colours_are_for_terminals_that_have_them_and_users_that_want_them(
    environment: dict[str, str], shown: bool
) -> None:
    assert has_colours(environment) is shown
