"""Threads that work on a conversion; where there is no memory for another, that is what the error says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """A pool whose threads start as they are needed."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises MemoryError where the system has no memory for the thread's stack, or no more threads."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:  # "can't start new thread"; Python has no error of its own for it
            raise MemoryError(str(error)) from error
