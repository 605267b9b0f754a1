"""Which prompts the engine does not survive: a guess, made from what was being answered each time that it died.

A prompt that was there by chance is cleared by its next answer, or by time. Only hashes are kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import RepeatedCrashError

_MOST_DEATHS = 3  # of the engine while it answered the same prompt
_REMEMBERED_S = 600.0


class CrashQuarantine:
    """Prompts that were being answered when the engine died, and how often lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: dict[bytes, list[float]] = {}

    def check(self, prompt: bytes) -> None:
        """Raises RepeatedCrashError for one that was there too often."""
        with self._lock:
            self._forget()
            if len(self._deaths.get(prompt, ())) >= _MOST_DEATHS:
                raise RepeatedCrashError(
                    f"the engine died {_MOST_DEATHS} times while it answered this prompt; it is refused for"
                    f" {_REMEMBERED_S / 60:g} minutes"
                )

    def record_crash(self, prompt: bytes) -> None:
        with self._lock:
            self._forget()
            self._deaths.setdefault(prompt, []).append(self._clock())

    def clear(self, prompt: bytes) -> None:
        """It was answered."""
        with self._lock:
            self._deaths.pop(prompt, None)

    def _forget(self) -> None:
        since = self._clock() - _REMEMBERED_S
        self._deaths = {
            prompt: late for prompt, times in self._deaths.items() if (late := [t for t in times if t > since])
        }
