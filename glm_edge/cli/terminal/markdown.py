"""Markdown in a terminal's colours, while it streams. Every character stays: only colours are added.

Known are headings, lists, **bold**, `code` and fenced blocks. Control characters that a terminal would obey are
replaced. Not here: tables, links, and wrapping, which the terminal does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what turns the writing around
_RESET, _BOLD, _HEADING, _CODE, _LIST = "\033[0m", "\033[1m", "\033[1;36m", "\033[33m", "\033[36m"


def has_colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a terminal shows colours and its user wants them (no-color.org)."""
    return not environment.get("NO_COLOR") and environment.get("TERM", "") not in ("", "dumb")


def harmless(text: str) -> str:
    """The text without what a terminal would obey."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


class Colours:
    """Adds colours to an answer: `feed` its parts, then `end`."""

    def __init__(self) -> None:
        self._run = ""  # markers that may go on: # * ` -
        self._starts = True  # whether only spaces are before, on this line
        self._fenced = self._heading = self._bold = self._code = False
        self._style = ""

    def feed(self, text: str) -> str:
        return "".join(self._next(character) for character in harmless(text))

    def end(self) -> str:
        """What was held back, and an end of all colours."""
        return self._marker("\n") + self._styled("", "")

    def _next(self, character: str) -> str:
        if self._run and character == self._run[0]:
            self._run += character
            return ""
        before = self._marker(character)
        if character in "#*`-":
            self._run = character
            return before
        if character == "\n":
            self._starts = True
            self._heading = self._bold = self._code = False
            return before + self._styled("", "\n")
        self._starts = self._starts and character == " "
        return before + self._styled(self._wanted(), character)

    def _wanted(self) -> str:
        if self._fenced or self._code:
            return _CODE
        return _HEADING if self._heading else _BOLD if self._bold else ""

    def _marker(self, following: str) -> str:
        """The markers that were held back, now that the character after them is known."""
        run, self._run = self._run, ""
        if not run:
            return ""
        starts, self._starts = self._starts, False
        kind, space = run[0], following in " \n"
        if kind == "`" and starts and len(run) >= 3:
            self._fenced = not self._fenced
            return self._styled(_CODE, run)
        if self._fenced:
            return self._styled(_CODE, run)
        if kind == "`":
            self._code = not self._code
            return self._styled(_CODE, run)
        if self._code:
            return self._styled(_CODE, run)
        if kind == "#" and starts and len(run) <= 6 and space:
            self._heading = True
        elif kind in "*-" and starts and len(run) == 1 and space:
            return self._styled(_LIST, run)
        elif kind == "*" and len(run) == 2:
            self._bold = not self._bold
            return self._styled(_BOLD, run)
        return self._styled(self._wanted(), run)

    def _styled(self, style: str, text: str) -> str:
        if style == self._style:
            return text
        change = (_RESET if self._style else "") + style
        self._style = style
        return change + text
