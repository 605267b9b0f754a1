"""What child processes share: a start that holds signals back, and the reason of an end.

Used for the engine's child (`worker/process.py`) and the benchmark's (`tools/bench/child.py`).
Not here: what parent and child say to each other.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

# Windows' exit code -> the name of the same death elsewhere (ntstatus.h)
_WINDOWS = {0xC000001D: "SIGILL", 0xC0000005: "SIGSEGV", 0xC0000409: "SIGABRT"}
_HINTS = {
    "SIGILL": "the llama.cpp library was built for a newer processor; build it on this machine:"
    " pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python",
    "SIGKILL": "probably by the system, for lack of memory; a smaller --ctx or a smaller model needs less",
    "SIGBUS": "the model file was cut short or its disk failed",
}


@dataclass(frozen=True)
class ExitReason:
    """How a process ended."""

    signal: str  # "SIGKILL"; empty where no signal ended it
    text: str  # for an error message, with a hint for the user where there is one


def exit_reason(code: int) -> ExitReason:
    """The reason behind an exit code as subprocess and multiprocessing give it: negative for a signal."""
    name = _WINDOWS.get(code, "")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = _HINTS.get(name, "")
    return ExitReason(name, (name or f"it ended with code {code}") + (f": {hint}" if hint else ""))


@contextlib.contextmanager
def signals_held_back(*signals: signal.Signals) -> Iterator[None]:
    """Block signals in this thread. A child started meanwhile inherits that: Ctrl-C cannot end it while it starts.

    In the main thread they also wait for the end of the block: the system may give a signal to any other thread, and
    Python runs its handler in the main one. Does nothing on Windows, which has no signal masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, lambda got, _: came.append(got)) for number in signals}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for late in came:
            signal.raise_signal(late)
