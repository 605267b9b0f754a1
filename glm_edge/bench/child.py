"""A function in a process of its own, so that its memory is its own and ends with it; progress comes back.

Errors of our tree come back as they are. Not here: what is measured.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ..errors import EngineError, GlmEdgeError

R = TypeVar("R")
Tell = Callable[[float], None]  # told how much more of the work is done, in units of the caller's choice


def in_child(function: Callable[..., R], *args: Any, tell: Tell) -> R:
    """`function(*args, tell)` in a fresh process; `function` and `args` are pickled.

    Raises what of GlmEdgeError it raises, EngineError when the process died of something else.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share memory, and llama.cpp's threads do not survive
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, args), daemon=True)
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
    try:
        pipe.send(("done", function(*args, lambda units: pipe.send(("tell", units)))))
    except GlmEdgeError as error:
        pipe.send(("error", error))
    except KeyboardInterrupt:  # the parent has it too, and says so
        pass
