"""One child process as the parent sees it: started, listened to, watched, and in the end explained.

Starting the next one, and what becomes of the requests, is `worker.py`'s.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import EngineError, GlmEdgeError, OutOfMemoryError, UnsupportedModelError
from .messages import Beat, Item, Pipes, Reply, encode

_EXIT_S = 5.0  # a process that has closed its end of the pipe is gone in milliseconds

# Windows' exit code -> what it would be called elsewhere (ntstatus.h)
_WINDOWS = {0xC000001D: "SIGILL", 0xC0000005: "SIGSEGV", 0xC0000409: "SIGABRT"}
_HINTS = {
    "SIGILL": "the llama.cpp library was built for a newer processor; build it on this machine:"
    " pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python",
    "SIGKILL": "probably by the system, for lack of memory; a smaller --ctx or a smaller model needs less",
    "SIGBUS": "the model file was cut short or its disk failed",
}


class Process:
    """Started at once; iterate to get what it says until it is dead.

    Must be made in a thread that lives as long as the child shall, because Linux ends the child with the thread, and
    that is not the main one, because it gets no SIGINT and SIGTERM from then on.

    Args:
        patience: seconds without a sign of life, or without progress while `busy`, after which it is killed.
    """

    def __init__(self, patience: float, busy: Callable[[], bool]) -> None:
        if hasattr(signal, "pthread_sigmask"):  # the child inherits it: Ctrl-C waits until `main` there ignores it
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        # sys.path is handed over: the child finds what we find, and nothing in the current folder
        code = f"import sys; sys.path[:] = {sys.path!r}; from glm_edge.worker.child import main; main()"
        self._popen = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._popen.stdin is None or self._popen.stdout is None:
            raise EngineError("no pipes to the engine's process")
        self._pipes = Pipes(self._popen.stdout, self._popen.stdin)  # type: ignore[arg-type]
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None is the end
        self._patience = patience
        self._busy = busy
        self._heard = self._progress = 0  # messages; and those of them that show that the engine works
        self._verdict = ""  # why we killed it
        self._over = threading.Event()
        self.steps = 0
        self._writer = threading.Thread(target=self._write, name="worker outbox", daemon=True)
        self._writer.start()
        threading.Thread(target=self._watch, name="worker watchdog", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def send(self, message: object) -> None:
        """Returns at once, even when the child does not read; lost when it is dead."""
        self._outbox.put(encode(message))

    def __iter__(self) -> Iterator[Any]:
        for message in self._pipes:
            self._heard += 1
            if isinstance(message, Beat):
                self._progress += message.steps != self.steps
                self.steps = message.steps
            else:
                self._progress += isinstance(message, Item | Reply)
            yield message

    def kill(self) -> None:
        self._popen.kill()

    def end(self) -> Death:
        """After the last message: wait for it, free what it took."""
        self._over.set()
        try:
            code = self._popen.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        self._outbox.put(None)
        self._writer.join()  # a pipe that nobody can read any more refuses what is written
        self._pipes.close()
        return Death(code, self._verdict)

    def _write(self) -> None:
        while (data := self._outbox.get()) is not None:
            self._pipes.write(data)

    def _watch(self) -> None:
        """Counts its own ticks, not the clock: when all the machine is stopped or asleep, the child is not to blame."""
        tick = min(0.5, self._patience / 4)
        silent = stalled = 0.0
        heard, progress = -1, -1
        while not self._over.wait(tick):
            silent = silent + tick if self._heard == heard else 0.0
            stalled = stalled + tick if self._progress == progress and self._busy() else 0.0
            heard, progress = self._heard, self._progress
            if silent >= self._patience or stalled >= self._patience:
                what = "gave no sign of life" if silent >= self._patience else "made no progress"
                self._verdict = f"it {what} for {self._patience:g} s"
                self.kill()
                return


class Death:
    """How a child ended."""

    def __init__(self, code: int, verdict: str) -> None:
        self._name = _WINDOWS.get(code, "")
        if code < 0:
            self._name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        self._verdict = verdict
        hint = _HINTS.get(self._name, "")
        self.why = verdict or (self._name or f"it ended with code {code}") + (f": {hint}" if hint else "")

    def while_loading(self) -> GlmEdgeError:
        """The error of a load that it interrupted."""
        message = f"the engine died while the model was being loaded: {self.why}"
        if self._name == "SIGILL":
            return UnsupportedModelError(message)
        if self._name == "SIGKILL" and not self._verdict:
            return OutOfMemoryError(message)
        return EngineError(message)
