"""Prompts that the engine does not survive: known by the deaths at which they ran alone.

A death at which several prompts ran, or a text was tokenized, is recorded against none of them alone. A prompt of three
such deaths is a suspect: it runs alone for a while, so that its next death, or its answer, tells. Only hashes are
stored, of a prompt and its scope: each key's clients have their own three deaths.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..errors import RepeatedCrashError

_MOST_DEATHS = 3
_REMEMBERED_S = 600.0
_TRIAL_S = 120.0  # between two tries of a prompt in quarantine


@dataclass(frozen=True)
class _Crash:
    """One death of the engine, as it concerns one prompt."""

    at: float
    alone: bool  # whether nothing else ran


class CrashQuarantine:
    """The prompts that ran at recent deaths of the engine, by hash: which are suspects, which are refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._crashes: dict[bytes, list[_Crash]] = {}
        self._tried: dict[bytes, float] = {}  # when a prompt in quarantine was tried last

    def check(self, prompt: bytes) -> None:
        """Raises RepeatedCrashError for a prompt in quarantine, but for one try every two minutes."""
        with self._lock:
            crashes = self._recent(prompt)
            alone = [crash.at for crash in crashes if crash.alone]
            if len(alone) < _MOST_DEATHS:
                return
            now = self._clock()
            if now - max(alone[-1], self._tried.get(prompt, 0.0)) < _TRIAL_S:
                raise RepeatedCrashError(
                    f"the engine died {_MOST_DEATHS} times while it answered nothing but this prompt; it is refused for"
                    f" {_REMEMBERED_S / 60:g} minutes, with a try every {_TRIAL_S / 60:g}"
                )
            self._tried[prompt] = now

    def is_suspect(self, prompt: bytes) -> bool:
        """Whether it ran at three deaths, alone or not: it must run alone."""
        if not self._crashes:
            return False
        with self._lock:
            return len(self._recent(prompt)) >= _MOST_DEATHS

    def record_crash(self, running: Collection[bytes], *, beside: bool = False) -> None:
        """The engine died while it answered these prompts, each once; `beside`: while it tokenized a text, too."""
        alone = len(running) == 1 and not beside
        with self._lock:
            for prompt in running:
                crash = _Crash(self._clock(), alone)
                self._crashes[prompt] = [*self._recent(prompt), crash]

    def clear(self, prompt: bytes) -> None:
        """The prompt was answered."""
        with self._lock:
            self._crashes.pop(prompt, None)
            self._tried.pop(prompt, None)

    def _recent(self, prompt: bytes) -> list[_Crash]:
        """The crashes of a prompt that are remembered; forgets older ones, of every prompt."""
        since = self._clock() - _REMEMBERED_S
        self._crashes = {one: late for one, all in self._crashes.items() if (late := [c for c in all if c.at > since])}
        self._tried = {one: at for one, at in self._tried.items() if one in self._crashes}
        return self._crashes.get(prompt, [])
