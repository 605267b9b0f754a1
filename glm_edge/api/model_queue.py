"""The queue of requests that wait while the model is loaded (`serve --wait-for-model`), the first that came in front.

Not here: the engine's own queue, into which they go afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

from ..errors import EngineClosedError, OverloadedError
from ..generation import Progress
from .admission import Admission
from .stream import POLL_S, check_wanted


class ModelQueue:
    """The queue of one server.

    Args:
        admission: tells when the model is loaded, and how long a request may wait.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._queue: list[object] = []  # a mark for each request
        self._changed = threading.Condition()
        admission.on_ready = self._notify

    def wait(self, client_gone: Callable[[], bool]) -> Generator[Progress, None, None]:
        """How far a request is, several times a second, until it may go to the engine.

        Raises ClientGoneError, EngineClosedError when the server ends, OverloadedError after `max_wait_s`.
        """
        mark, began = object(), time.monotonic()
        with self._changed:
            self._queue.append(mark)
        try:
            while position := self._position(mark):
                check_wanted(self._admission, client_gone)
                if self._admission.draining:
                    raise EngineClosedError("the server is shutting down")
                if (waited := time.monotonic() - began) > self._admission.max_wait_s:
                    raise OverloadedError(
                        f"the request waited {waited:.0f} s for the model to be loaded, and"
                        f" {self._admission.max_wait_s:g} s are the most; try again later"
                    )
                yield Progress(position, self._admission.load_left_s())
        finally:
            with self._changed:
                self._queue.remove(mark)
            self._notify()

    def _position(self, mark: object) -> int:
        """From 1, or 0 when it is the request's turn. Waits a moment for that."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_next(mark), POLL_S)
            return 0 if self._is_next(mark) else self._queue.index(mark) + 1

    def _is_next(self, mark: object) -> bool:
        return self._queue[0] is mark and not self._admission.must_wait

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
