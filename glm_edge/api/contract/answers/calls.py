"""Answers that may be calls of tools: read while they are written. Pure.

The engine's grammar (`engine/sampling/json_schema.py`) holds an answer that begins like a call to be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ....tool_calls import LONGEST_HEAD, head_pattern

_OPENING = '{"name":"'
_END = re.compile(r"\s*\}?\s*$")  # may be the end of the call, and of its arguments


@dataclass(frozen=True)
class AnswerPart:
    """A part of an answer: text, the name of the tool that it calls, or a part of the arguments."""

    kind: Literal["text", "name", "arguments"]
    value: str


class CallReader:
    """A reader of one answer, which tells calls from text as soon as that is certain.

    Args:
        names: of the tools that can be called; without any, all is text.
        required: whether one must be; a call that is cut before its name is whole is no text then.
    """

    def __init__(self, names: Sequence[str], *, required: bool = False) -> None:
        self._head = re.compile(head_pattern(map(re.escape, names)))
        self._state: Literal["open", "text", "call", "cut"] = "open" if names else "text"
        self._required = required
        self._whole = ""  # of an answer that may be a call
        self._held = ""
        self._arguments = False  # whether a part of them was given

    @property
    def is_call(self) -> bool:
        return self._state == "call"

    @property
    def is_cut(self) -> bool:
        """Whether the answer ended before the call that it must be had its name."""
        return self._state == "cut"

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that more of the answer adds."""
        self._held += text
        parts = []
        if self._state != "text":
            self._whole += text
        if self._state == "open":
            found = self._head.match(self._held)
            if found is not None:
                self._state = "call"
                self._held = self._held[found.end() :]
                parts.append(AnswerPart("name", found[1]))
            elif not self._may_be_call():
                self._state = "text"
        if self._state == "open":
            return parts
        if self._state == "call" and not self._arguments:
            self._held = self._held.lstrip()
        safe = len(self._held)
        if self._state == "call" and (end := _END.search(self._held)):
            safe = end.start()
        return parts + self._take(safe)

    def end(self) -> list[AnswerPart]:
        """The rest, at the answer's end."""
        if self._state == "call" and _is_json(self._whole):
            self._held = self._held.rstrip().removesuffix("}").rstrip()
        elif self._state == "open":
            self._state = "cut" if self._required else "text"
        return [] if self._state == "cut" else self._take(len(self._held))

    def _may_be_call(self) -> bool:
        """Whether the text so far may be the beginning of a call's head."""
        compact = "".join(self._held.split())
        return len(self._held) <= LONGEST_HEAD and compact[: len(_OPENING)] == _OPENING[: len(compact)]

    def _take(self, n: int) -> list[AnswerPart]:
        taken, self._held = self._held[:n], self._held[n:]
        self._arguments = self._arguments or (self.is_call and bool(taken))
        return [AnswerPart("arguments" if self.is_call else "text", taken)] if taken else []


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
