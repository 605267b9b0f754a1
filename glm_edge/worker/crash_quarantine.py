"""Prompts that the engine does not survive: guessed from the prompts that were being answered at each crash.

A prompt that was there by chance is cleared by its next answer, or by time. Only hashes are stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import RepeatedCrashError

_MOST_DEATHS = 3  # of the engine while it answered the same prompt
_REMEMBERED_S = 600.0


class CrashQuarantine:
    """The prompts of recent crashes, by hash, with the times."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: dict[bytes, list[float]] = {}

    def check(self, prompt: bytes) -> None:
        """Raises RepeatedCrashError for a prompt of too many recent crashes."""
        with self._lock:
            self._forget()
            if len(self._deaths.get(prompt, ())) >= _MOST_DEATHS:
                raise RepeatedCrashError(
                    f"the engine died {_MOST_DEATHS} times while it answered this prompt; it is refused for"
                    f" {_REMEMBERED_S / 60:g} minutes"
                )

    def record_crash(self, prompt: bytes) -> None:
        """The engine died while it answered this prompt."""
        with self._lock:
            self._forget()
            self._deaths.setdefault(prompt, []).append(self._clock())

    def clear(self, prompt: bytes) -> None:
        """The prompt was answered."""
        with self._lock:
            self._deaths.pop(prompt, None)

    def _forget(self) -> None:
        since = self._clock() - _REMEMBERED_S
        self._deaths = {
            prompt: late for prompt, times in self._deaths.items() if (late := [t for t in times if t > since])
        }
