"""A function call in a process of its own: its memory is its own and ends with it. Progress and result come back.

Errors of our own tree come back as they are. Not here: what is measured.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ...errors import EngineError, GlmEdgeError
from ...system.child_process import exit_reason, signals_held_back

R = TypeVar("R")
Tell = Callable[[float], None]  # called with the work done since the last call, in units of the caller's choice
_TELL_S = 0.1  # between two messages: one for every token would slow the measurement


def in_child(function: Callable[..., R], *args: Any, tell: Callable[[float], object]) -> R:
    """`function(*args, tell)` in a fresh process; `function` and `args` are pickled.

    Raises the GlmEdgeError that it raises, or EngineError when the process dies.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share memory, and llama.cpp's threads do not survive
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, args), daemon=True)
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # the start of the first process would start it, and unblock SIGINT
    with signals_held_back(signal.SIGINT):  # for good: Ctrl-C is the parent's, which then kills the child
        process.start()
    theirs.close()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "done":
                result: R = value
                return result
            if kind == "error":
                raise value
            tell(value)
    except EOFError:
        process.join()
        raise EngineError(f"the measuring process died: {exit_reason(process.exitcode or 0).text}") from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _work(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    owed, told = 0.0, time.monotonic()

    def tell(units: float) -> None:
        nonlocal owed, told
        owed += units
        if time.monotonic() - told >= _TELL_S:
            pipe.send(("tell", owed))
            owed, told = 0.0, time.monotonic()

    try:
        result = function(*args, tell)
        pipe.send(("tell", owed))
        pipe.send(("done", result))
    except GlmEdgeError as error:
        pipe.send(("error", error))
    except KeyboardInterrupt:  # on Windows it cannot be held back; the parent gets it too and reports it
        pass
