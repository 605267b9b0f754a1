"""A function in a process of its own, so that its memory is its own and ends with it; progress comes back.

Errors of our tree come back as they are. Not here: what is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ...errors import EngineError, GlmEdgeError

R = TypeVar("R")
Tell = Callable[[float], None]  # told how much more of the work is done, in units of the caller's choice
_TELL_S = 0.1  # between two messages, so that telling of every token does not slow what is measured


def in_child(function: Callable[..., R], *args: Any, tell: Callable[[float], object]) -> R:
    """`function(*args, tell)` in a fresh process; `function` and `args` are pickled.

    Raises what of GlmEdgeError it raises, EngineError when the process died of something else.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share memory, and llama.cpp's threads do not survive
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, args), daemon=True)
    with _interrupts_held_back():  # the child inherits that: Ctrl-C is ours, and then we kill it
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
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise EngineError(f"the measuring process {how}; if memory is short, try a shorter --ctx") from None
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
    except KeyboardInterrupt:  # where it cannot be held back the parent has it too, and says so
        pass


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the start of the first process would start it, and let interrupts in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
