"""Threads that work on a conversion; where there is no memory for another, that is what the error says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LOOK = 0.5  # seconds


class Threads(ThreadPoolExecutor):
    """A pool whose threads start as they are needed."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises MemoryError where the system has no memory for the thread's stack, or no more threads."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:  # "can't start new thread"; Python has no error of its own for it
            raise MemoryError(str(error)) from error

    def result(self, future: Future[T]) -> T:
        """What the call gives or raises, once it has ended.

        Looks for itself now and then: without memory, the very call that should wake the waiting thread can fail, and
        so can the thread that works. Raises MemoryError for the second.
        """
        while not future.done():
            try:
                return future.result(LOOK)
            except TimeoutError:
                if not future.done() and not all(thread.is_alive() for thread in self._threads):
                    raise MemoryError("a thread ended before its work did") from None
        return future.result()
