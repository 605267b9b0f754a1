"""A pool of threads that says so when there is no memory for another thread."""

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
        """Start the call. Raises MemoryError where the system has no memory for a thread, or no more threads."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:  # "can't start new thread"; Python has no error of its own for it
            raise MemoryError(str(error)) from error

    def result(self, future: Future[T]) -> T:
        """Wait for the call to end, and return or raise what it gave.

        Looks every LOOK seconds: without memory, the call that should wake the waiting thread can fail, and so can the
        thread that works. Raises MemoryError for the second.
        """
        while not future.done():
            try:
                return future.result(LOOK)
            except TimeoutError:
                if not future.done() and not all(thread.is_alive() for thread in self._threads):
                    raise MemoryError("a thread ended before its work did") from None
        return future.result()
