"""A script for the fake engine that takes the time of a full-size Q4_0 file on two cores, without computing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from glm_edge.types import Request
from support.engines.fake_engine import Step

_PROMPT_S = 1 / 23  # seconds a token
_STEP_S = {1: 1 / 8.4, 2: 2 / 9.1, 3: 4 / 13.6, 4: 4 / 13.6}  # seconds a token of every running answer
_SLICE = 64  # tokens of a prompt that are read together


class FullSize:
    """Answers "HOST 字字字…" up to max_tokens.

    A prompt's beginning that was read before costs nothing, as far as whole messages are the same. A character counts
    as a token.

    Args:
        host: what the answer begins with.
        speed: how many times as fast as the real thing.
    """

    def __init__(self, host: str, speed: float) -> None:
        self._host = host
        self._speed = speed
        self._computes = threading.Lock()
        self._known: set[int] = set()
        self._writing = 0

    def __call__(self, request: Request) -> Iterator[Step]:
        prefixes, text = [], ""
        for message in request.messages:
            text += f"{message.role}:{message.content}\n"
            prefixes.append((hash(text), len(text)))
        left = len(text) - max((length for prefix, length in prefixes if prefix in self._known), default=0)
        while left > 0:
            with self._computes:
                time.sleep(min(left, _SLICE) * _PROMPT_S / self._speed)
            left -= _SLICE
        self._writing += 1
        try:
            for n in range(request.max_tokens or 64):
                yield _STEP_S[min(4, self._writing)] / self._speed
                with self._computes:  # a prompt's slice is read between two steps
                    pass
                answer = f"{self._host} " if n == 0 else "字"
                text += answer if n else f"assistant:{answer}"
                yield answer
        finally:
            self._writing -= 1
            self._known |= {prefix for prefix, _ in prefixes} | {hash(text + "\n")}
