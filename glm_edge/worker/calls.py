"""The calls of a worker that have not ended: which of them may go to the child, and what comes back for each.

They go in their order. Not here: the child, its deaths and the next one (`worker.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from ..errors import EngineClosedError, EngineDiedError, EngineError, LoadingError
from ..generation import Generation, Progress
from ..types import Chunk
from .crash_quarantine import CrashQuarantine
from .messages import Beat, Call, Cancel, Item, Reply

_CHECK_S = 0.2  # how soon it is noticed that nobody waits for a reply any more
_ALONE_S = 30.0  # how long others wait for a suspect, and a suspect for others


@dataclass(eq=False)
class OpenCall:
    """A call without a reply yet, or with an answer that is still being written."""

    call: Call
    done: Future[Any] = field(default_factory=Future)  # the value of the reply
    generation: Generation[Chunk] | None = None  # only of a submit
    progress: Progress | None = None
    prompt: bytes = b""  # a hash; of a submit
    sent: float | None = None  # when it went to the child
    entered: float = field(default_factory=time.monotonic)

    def value(self, check: Callable[[], None]) -> Any:
        """Wait for the reply, and return its value or raise its error; what `check` raises ends the waiting."""
        while not wait([self.done], _CHECK_S).done:
            check()
        return self.done.result()


class OpenCalls:
    """The open calls of one worker, in the order in which they came.

    Args:
        quarantine: whose suspects are alone with the engine, for a while.
    """

    def __init__(self, quarantine: CrashQuarantine) -> None:
        self._quarantine = quarantine
        self._lock = threading.Lock()  # guards all below; held for moments only
        self._send: Callable[[object], None] | None = None
        self._open: dict[int, OpenCall] = {}
        self._failed: set[bytes] = set()  # prompts that ended with an error since the engine was last seen to work

    @property
    def computed(self) -> bool:
        """Whether answers are expected. A text is tokenized beside them, however long that takes."""
        return any(one.generation is not None for one in list(self._open.values()))

    @property
    def ready(self) -> bool:
        """Whether calls are taken."""
        return self._send is not None

    def start(self, send: Callable[[object], None]) -> None:
        """Take calls from now on. `send` is called under a lock and must not block."""
        with self._lock:
            self._send = send

    def stop(self) -> bool:
        """Take no more calls. Returns whether they were taken before."""
        with self._lock:
            before, self._send = self._send, None
        return before is not None

    def enter(self, opened: OpenCall) -> bool:
        """Take a call, and send it if it is its turn; False where none are taken."""
        with self._lock:
            if self._send is None:
                return False
            self._open[opened.call.id] = opened
            self._send_next()
        return True

    def cancel(self, id: int) -> None:
        """Nobody reads this answer any more."""
        with self._lock:
            opened = self._open.get(id)
            if opened is not None and opened.sent is not None and self._send is not None:
                self._send(Cancel(id))
            if opened is None or opened.sent is not None:
                return
            del self._open[id]
            self._send_next()
        if opened.generation is not None:
            opened.generation.finish()

    def answer(self, reply: Reply) -> None:
        """The child has replied to a call."""
        with self._lock:
            opened = self._open[reply.id]
            if reply.error is not None or opened.generation is None:
                del self._open[reply.id]  # nothing more comes
                self._send_next()
            else:
                self._failed.clear()
        if reply.error is None:
            opened.progress = None if opened.generation is None else reply.value
            opened.done.set_result(reply.value)
            return
        opened.done.set_exception(reply.error)
        if opened.generation is not None:  # which has a reader already, if it had to wait for its turn
            opened.generation.fail(reply.error)

    def pass_on(self, message: Item) -> bool:
        """The child has sent a part or the end of an answer. Returns whether that was the end of a whole one."""
        item = message.item
        with self._lock:
            opened = self._open.get(message.id)
            if opened is None or opened.generation is None:
                return False
            if isinstance(item, Chunk):
                if item.finish_reason != "cancelled":
                    self._failed.clear()
            else:
                del self._open[message.id]
                if type(item) is EngineError:  # it may be the engine's last one before it exits
                    self._failed.add(opened.prompt)
        if isinstance(item, Chunk):
            opened.generation.put(item)
            return False
        whole = item is None and not opened.generation.cancelled
        if whole:
            self._quarantine.clear(opened.prompt)
        if item is None:
            opened.generation.finish()
        else:
            opened.generation.fail(item)
        with self._lock:
            self._send_next()
        return whole

    def advance(self, beat: Beat) -> None:
        """The child has told how far its requests are."""
        for id, started, progress in beat.waiting:
            opened = self._open.get(id)
            if opened is not None and opened.generation is not None:
                opened.progress = progress
                if started:
                    opened.generation.start()
        with self._lock:
            self._send_next()

    def lose(self, why: str, *, back_in: float = 0.0, closed: bool) -> None:
        """The child is dead: end every call.

        Args:
            back_in: seconds until the next one is expected to be loaded.
            closed: whether there is no next one.
        """
        with self._lock:
            self._send = None
            lost = list(self._open.values())
            self._open.clear()
            sent = [one for one in lost if one.sent is not None]
            running = {one.prompt for one in sent if one.generation is not None} | self._failed
            self._failed = set()
        if not closed:
            self._quarantine.record_crash(running, beside=any(one.generation is None for one in sent))
        for opened in lost:
            error: EngineError = EngineDiedError(f"the engine died: {why}")
            if opened.sent is None:
                error = LoadingError("the engine is being restarted; try again later", retry_after=back_in)
            if closed:
                error = EngineClosedError("the engine is shutting down")
            if opened.generation is None:
                opened.done.set_exception(error)
                continue
            opened.generation.fail(error)
            if not opened.done.done():  # submit returns; the error comes through the generation
                opened.done.set_result(None)

    def _send_next(self) -> None:
        """Send the calls whose turn it is. Under the lock."""
        waiting = [one for one in self._open.values() if one.sent is None]
        if self._send is None or not waiting:
            return
        now = time.monotonic()
        running = [one for one in self._open.values() if one.sent is not None]
        for opened in waiting:
            if any(self._is_alone(one, now) for one in running) or (running and self._is_alone(opened, now)):
                return
            running.append(opened)
            opened.sent = now
            self._send(opened.call)

    def _is_alone(self, opened: OpenCall, now: float) -> bool:
        """Whether no other may run beside it."""
        since = opened.entered if opened.sent is None else opened.sent
        return now - since < _ALONE_S and self._quarantine.is_suspect(opened.prompt)
