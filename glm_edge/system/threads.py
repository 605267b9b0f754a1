"""Starting a thread where the system may have no memory for one, or no more of them."""

from __future__ import annotations

import threading

from ..errors import OutOfMemoryError


def start(thread: threading.Thread) -> threading.Thread:
    """Start a thread, and return it. Raises OutOfMemoryError where the system has none."""
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"; Python has no error of its own for it
        raise no_thread(thread.name) from None
    return thread


def no_thread(name: str) -> OutOfMemoryError:
    """The error for a thread that the system does not start."""
    return OutOfMemoryError(
        f"the system has no memory for another thread ({name}), or no more threads; close other programs, or raise the"
        " limits (ulimit -v, ulimit -u)"
    )
