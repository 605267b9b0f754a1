"""EngineLoop: what the engine's thread does, a batch a turn, and the way in for everyone else.

Not here: loading a model and making sequences of requests, which is `engine.py`; what goes into a batch, which is
`scheduler.py`. Nothing here needs llama.cpp, so a test can drive it turn by turn, without a thread.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..errors import EngineError, GlmEdgeError, OverloadedError, RequestError
from ..generation import Progress
from .eta import EtaEstimator
from .scheduler import Scheduler
from .sequence import Sequence

R = TypeVar("R")

_RETRY_S = 5.0  # Retry-After while no speed is measured


class EngineLoop:
    """The loop of the engine's thread: its inbox, the sequences that have not ended, and the scheduler.

    Args:
        slots: answers computed at the same time.
        queue_size: answers that may wait for a slot.
    """

    def __init__(self, scheduler: Scheduler, *, slots: int, queue_size: int) -> None:
        self._scheduler = scheduler
        self._capacity = slots + queue_size
        self._eta = EtaEstimator(slots)
        self._lock = threading.Lock()  # guards _sequences and error
        self._sequences: dict[Sequence, None] = {}  # submitted, not ended; in order of arrival
        self._inbox: queue.SimpleQueue[Sequence | Callable[[], None] | None] = queue.SimpleQueue()  # None only wakes
        self.error: GlmEdgeError | None = None  # why no more requests are taken
        self.abort = False  # whether the batch being computed is to be given up

    # In any thread.

    def check_running(self) -> None:
        """Raise why no more requests are taken, where that is so."""
        if self.error is not None:
            raise copy.copy(self.error)  # a copy: an exception keeps the frames it was raised through

    def check_capacity(self, n: int) -> None:
        """Raise RequestError where n answers never fit, OverloadedError where they do not now."""
        if n > self._capacity:
            raise RequestError(
                f"n: {n} answers at once exceed this engine's capacity of {self._capacity}, running and queued",
                param="n",
                code="invalid_value",
            )
        if len(self._sequences) + n > self._capacity:
            wait = self._eta.next_ends(list(self._sequences), len(self._sequences) + n - self._capacity)
            raise OverloadedError(
                f"the engine is at its capacity of {self._capacity} answers, running and queued; try again later",
                retry_after=_RETRY_S if wait is None else wait,
            )

    def enter(self, sequences: list[Sequence]) -> None:
        """Give all sequences of a request to the engine's thread, or none."""
        with self._lock:
            self.check_running()
            self.check_capacity(len(sequences))
            self._sequences.update(dict.fromkeys(sequences))
            for sequence in sequences:  # under the lock, so that the ending thread sees them in the inbox
                self._inbox.put(sequence)

    def progress(self, sequence: Sequence) -> Progress:
        """How far a sequence is. The list of a dict is made in one step."""
        return self._eta.progress(sequence, list(self._sequences))

    def between_batches(self, function: Callable[[], R]) -> R:
        """Call a function in the engine's thread and return its result."""
        result: Future[R] = Future()

        def call() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # goes to the caller, who waits
                result.set_exception(error)

        with self._lock:
            self.check_running()
            self._inbox.put(call)
        return result.result()

    def on_cancel(self) -> None:
        """A request was cancelled: wake the engine, and abort its batch if every answer in it is cancelled."""
        if all(sequence.cancelled for sequence in self._scheduler.running):
            self.abort = True
        self._scheduler.cancels = True
        self._inbox.put(None)

    def stop(self, error: GlmEdgeError) -> None:
        """Take no more requests, and end those that are there with `error`. Safe to call twice."""
        with self._lock:
            self.error = self.error or error
        self.abort = True
        self._inbox.put(None)

    # In the engine's thread.

    def run(self) -> None:
        """Wait for requests and compute batches, until stopped or broken."""
        try:
            while self.error is None:
                if self._scheduler.idle:
                    self._dispatch(self._inbox.get())
                self.turn()
        finally:
            self._end_all(EngineError("the engine stopped"))

    def turn(self) -> None:
        """Take new requests and compute a batch; if that fails, every answer ends with the error."""
        try:
            self._take_new()
            self._scheduler.admit()
            self.abort = self.error is not None
            if not all(sequence.cancelled for sequence in self._scheduler.running):
                self._scheduler.step()
        except GlmEdgeError as failed:
            self._end_all(failed)
        except BaseException as bug:  # readers must not wait for ever; the traceback is printed by the thread
            self._end_all(EngineError(f"the engine failed: {type(bug).__name__}"))
            raise

    def leave(self, sequence: Sequence) -> None:
        """A sequence has ended, which frees capacity."""
        if not sequence.cancelled:  # nor failed, which counts as cancelled too
            self._eta.ended(sequence.so_far())
        with self._lock:
            self._sequences.pop(sequence, None)

    def _end_all(self, error: GlmEdgeError) -> None:
        with self._lock:  # from here on nothing enters
            self.error = self.error or error
        self._take_new()
        self._scheduler.end_all(self.error)

    def _take_new(self) -> None:
        while not self._inbox.empty():
            self._dispatch(self._inbox.get())

    def _dispatch(self, item: Sequence | Callable[[], None] | None) -> None:
        if isinstance(item, Sequence):
            self._scheduler.add(item)
        elif item is not None:
            item()
