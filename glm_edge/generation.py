"""One submitted request, seen from both ends: the engine puts chunks in, a reader in another thread takes them out.

The queue is unbounded, so a slow reader never holds up the engine. An answer is never longer than the context.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import GlmEdgeError

C = TypeVar("C")


@dataclass(frozen=True)
class Progress:
    """How far a request without text is: its position in the queue, then the part of its prompt that is read."""

    position: int = 0  # in the queue: 1 is the next; 0 once the engine works on it
    wait_s: float | None = None  # seconds until the engine works on it, by the measured speed; None if none is measured
    done: int = 0  # tokens of the prompt that are in the cache
    total: int = 0  # tokens of the prompt


class Generation(Generic[C]):
    """The chunks of one request, in order, until the end or an error.

    Reader: iterate, or call `get` with a timeout. Call `cancel` at any time, from any thread.
    Engine: call `start` when the request leaves the queue, `put` for each chunk, `finish` or `fail` at the end; look at
    `cancelled` between steps. Each answer of a request may fail, so more than one end may come. The first one counts.

    Args:
        on_cancel: called in the thread that cancels, after `cancelled` is true; must not block.
        progress: returns how far the request is, in any thread, before the first chunk; must not block.
    """

    def __init__(
        self,
        on_cancel: Callable[[], None] | None = None,
        progress: Callable[[], Progress | None] | None = None,
    ) -> None:
        self._on_cancel = on_cancel
        self._progress = progress
        self._queue: queue.SimpleQueue[C | GlmEdgeError | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._started = threading.Event()
        self._ended = False  # the reader has taken the end
        self._lock = threading.Lock()  # guards _sink, and the order of what goes into it
        self._sink: Callable[[C | GlmEdgeError | None], None] | None = None

    def get(self, timeout: float | None = None) -> C | None:
        """The next chunk; None after the last one.

        Raises TimeoutError when nothing came within `timeout` seconds, or the error the engine failed with.
        """
        if self._ended:
            return None
        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no chunk within {timeout} s") from None
        if item is None or isinstance(item, GlmEdgeError):
            self._ended = True
        if isinstance(item, GlmEdgeError):
            raise item
        return item

    def __iter__(self) -> Iterator[C]:
        while (chunk := self.get()) is not None:
            yield chunk

    def cancel(self) -> None:
        """Ask the engine to stop. Chunks that are there already can still be read."""
        self._cancelled.set()
        if self._on_cancel is not None:
            self._on_cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def start(self) -> None:
        self._started.set()

    @property
    def started(self) -> bool:
        """Whether the engine works on the request. Until then it waits in the queue, and ending it loses no work."""
        return self._started.is_set()

    @property
    def progress(self) -> Progress | None:
        """How far the request is now; None if that is unknown."""
        return None if self._progress is None else self._progress()

    def forward(self, sink: Callable[[C | GlmEdgeError | None], None]) -> None:
        """Push instead of being read: call `sink` with each chunk, and at the end with None or an error.

        The calls come in order, one at a time: first in this thread, for what is there already, then in the engine's.
        Call this once.
        """
        with self._lock:
            while not self._queue.empty():
                sink(self._queue.get())
            self._sink = sink

    def put(self, chunk: C) -> None:
        self._started.set()
        self._give(chunk)

    def finish(self) -> None:
        self._give(None)

    def fail(self, error: GlmEdgeError) -> None:
        self._give(error)

    def _give(self, item: C | GlmEdgeError | None) -> None:
        with self._lock:
            if self._sink is None:
                self._queue.put(item)
            else:
                self._sink(item)
