"""One child process as the parent sees it: started, read from, watched, and at its end explained.

Not here: the next child, and what happens to the requests (`worker.py`).
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
from ..system.child_process import exit_reason, signals_held_back
from ..system.threads import start
from .messages import Beat, Item, Pipes, Reply, encode

_EXIT_S = 5.0  # a process that has closed its end of the pipe is gone in milliseconds


class Process:
    """A running child. It starts at once; iterate to get its messages until it is dead.

    Create it in a thread that lives as long as the child: Linux ends the child with that thread.

    Args:
        patience: seconds without a heartbeat, or without progress while `busy`, after which the child is killed.

    Raises EngineError where the system does not start it, OutOfMemoryError where it has no memory or threads for it.
    """

    def __init__(self, patience: float, busy: Callable[[], bool]) -> None:
        # sys.path is handed over: the child finds what we find, and nothing in the current folder
        code = f"import sys; sys.path[:] = {sys.path!r}; from glm_edge.worker.child import main; main()"
        command = [sys.executable, "-c", code]
        try:
            with signals_held_back(signal.SIGINT, signal.SIGTERM):  # until `main` there ignores them
                self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise EngineError(f"the engine's process cannot be started: {error.strerror}") from error
        except MemoryError:
            raise OutOfMemoryError("no memory to start the engine's process; close other programs") from None
        if self._popen.stdin is None or self._popen.stdout is None:
            raise EngineError("no pipes to the engine's process")
        self._pipes = Pipes(self._popen.stdout, self._popen.stdin)  # type: ignore[arg-type]
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None is the end
        self._patience = patience
        self._busy = busy
        self._heard = self._progress = 0  # messages; and those that show progress
        self._verdict = ""  # why we killed it
        self._over = threading.Event()
        self.steps = 0
        try:
            self._writer = start(threading.Thread(target=self._write, name="worker outbox", daemon=True))
            start(threading.Thread(target=self._watch, name="worker watchdog", daemon=True))
        except BaseException:  # no child without those that write to it and watch it
            self.kill()
            self._popen.wait()
            self._outbox.put(None)
            self._pipes.close()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def send(self, message: object) -> None:
        """Send a message. Returns at once, even if the child does not read; lost if it is dead."""
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
        """After the last message: wait for the child's end, free its pipes, say how it died."""
        self._over.set()
        try:
            code = self._popen.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        self._outbox.put(None)
        self._writer.join()  # ends: a pipe without a reader refuses what is written
        self._pipes.close()
        return Death(code, self._verdict)

    def _write(self) -> None:
        while (data := self._outbox.get()) is not None:
            self._pipes.write(data)

    def _watch(self) -> None:
        """Kill a silent or stalled child. Counts ticks, not the clock: a sleeping machine is not the child's fault."""
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
    """How a child ended, with the reason of ours if we killed it."""

    def __init__(self, code: int, verdict: str) -> None:
        reason = exit_reason(code)
        self._signal = reason.signal
        self._verdict = verdict
        self.why = verdict or reason.text

    def while_loading(self) -> GlmEdgeError:
        """The error of a load that the death interrupted."""
        message = f"the engine died while the model was being loaded: {self.why}"
        if self._signal == "SIGILL":
            return UnsupportedModelError(message)
        if self._signal == "SIGKILL" and not self._verdict:
            return OutOfMemoryError(message)
        return EngineError(message)
