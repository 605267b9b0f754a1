"""How far the load in this process, or in its child, is: told by who loads, passed on by the child's heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable


class LoadProgress:
    """The progress of one load after another.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.done = 0.0  # 0 to 1, by bytes

    def report(self, done: float) -> None:
        """So much is loaded. Less than before is another load."""
        if done < self.done or not done:
            self._began = self._clock()
        self.done = done

    def left_s(self) -> float | None:
        """Seconds until the end, at the speed so far; None while nothing is loaded."""
        done = self.done
        return (self._clock() - self._began) * (1 - done) / done if done else None


LOAD_PROGRESS = LoadProgress()  # of this process
