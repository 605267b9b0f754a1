"""Worker: an engine that runs in a child process and is restarted when it dies.

One thread starts a child, reads its messages until it dies, fails the requests that it had, and starts the next one.
The parent itself loads no native code.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..errors import (
    EngineClosedError,
    EngineDiedError,
    EngineError,
    GlmEdgeError,
    IntegrityError,
    InvalidFileError,
    LoadingError,
)
from ..generation import Generation, Progress
from ..types import Chunk, Engine, ModelInfo, Request
from .crash_quarantine import CrashQuarantine
from .messages import Beat, Call, Cancel, Close, Item, Reply
from .process import Process

PATIENCE_S = 60.0  # one node of a batch's graph takes at most seconds on the slowest devices
_CLOSE_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0  # between two starts
_LOAD = -1  # the id of the call that loads; those of requests are counted from 0

_log = logging.getLogger("glm_edge.worker")


@dataclass
class _Open:
    """A call that is open: without a reply yet, or with an answer that is still being written."""

    done: Future[Any] = field(default_factory=Future)  # the value of the reply
    generation: Generation[Chunk] | None = None
    progress: Progress | None = None
    prompt: bytes = b""  # a hash


class Worker:
    """An engine (types.Engine) that runs in a child process. Constructed when its model is loaded.

    Args:
        load: makes the engine in the child. Must be importable there: a function of a module, or a partial of one.
        reload: the same for every child after the first; default: `load`.
        patience: seconds without progress, while there are requests, after which the engine counts as hung.

    Raises what `load` raises, or an error that says how the child died.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        reload: Callable[[], Engine] | None = None,
        *,
        patience: float = PATIENCE_S,
    ) -> None:
        self._load = load
        self._reload = reload or load
        self._patience = patience
        self._lock = threading.Lock()  # guards _open, _process and _ready; held for moments only
        self._open: dict[int, _Open] = {}
        self._process: Process | None = None
        self._ready = False
        self._served = False  # whether this child has answered a request
        self._began = 0.0  # when this child was started, or the next will be
        self._load_s = 0.0  # how long the last load took
        self._ids = itertools.count()
        self._closed = threading.Event()
        self._quarantine = CrashQuarantine()
        self._recorded: set[bytes] = set()  # crashes of this child
        self._info: Future[ModelInfo] = Future()
        self._supervisor = threading.Thread(target=self._supervise, name="worker", daemon=True)
        self._supervisor.start()
        try:
            self.info = self._info.result()
        except BaseException:
            self.close()
            raise

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def steps(self) -> int:
        process = self._process
        return 0 if process is None else process.steps

    @property
    def pid(self) -> int:
        """Process id of the child; of the last one while there is none."""
        if self._process is None:
            raise EngineError("the engine was never started")
        return self._process.pid

    def submit(self, request: Request) -> Generation[Chunk]:
        """See types.Engine; RepeatedCrashError for a prompt that the engine does not survive."""
        id = next(self._ids)
        prompt = hashlib.sha256(repr((request.messages, request.prompt)).encode("utf-8", "surrogatepass")).digest()
        self._quarantine.check(prompt)
        opened = _Open(prompt=prompt)
        generation = opened.generation = Generation(lambda: self._cancel(id), lambda: opened.progress)
        self._call(Call(id, "submit", request), opened)
        return generation

    def tokenize(self, text: str) -> list[int]:
        """See types.Engine."""
        ids: list[int] = self._call(Call(next(self._ids), "tokenize", text), _Open())
        return ids

    def close(self) -> None:
        """See types.Engine."""
        with self._lock:
            self._closed.set()
            process = self._process
        if process is not None:
            process.send(Close())
        self._supervisor.join(_CLOSE_S)
        if process is not None and self._supervisor.is_alive():
            process.kill()
            self._supervisor.join()

    def _call(self, call: Call, opened: _Open) -> Any:
        with self._lock:
            if self._closed.is_set():
                raise EngineClosedError("the engine is shutting down")
            if self._process is None or not self._ready:
                raise LoadingError("the engine is being restarted; try again later", retry_after=self._back_in())
            self._process.send(call)  # the reply is handled only after the lock is free
            self._open[call.id] = opened
        return opened.done.result()

    def _back_in(self) -> float:
        """Seconds until the engine is loaded again, if that takes as long as the last time."""
        return max(1.0, self._began + self._load_s - time.monotonic())

    def _cancel(self, id: int) -> None:
        with self._lock:
            if id in self._open and self._process is not None:
                self._process.send(Cancel(id))

    def _supervise(self) -> None:
        """In a thread of its own: one child after the other, until closed or not even the first can be loaded."""
        try:
            self._restart_until_closed()
        except BaseException as bug:  # nobody must wait for ever
            self._closed.set()
            if self._process is not None:
                self._process.kill()
            self._lose_all(f"its supervisor failed: {type(bug).__name__}")
            if not self._info.done():
                self._info.set_exception(EngineError(f"the engine's supervisor failed: {type(bug).__name__}: {bug}"))
            raise

    def _restart_until_closed(self) -> None:
        pause = 0.0
        while not self._closed.is_set():
            self._served = False
            self._recorded.clear()
            error = self._live_once(self._reload if self._info.done() else self._load)
            if not self._info.done():
                self._info.set_exception(error)
                return
            if not self._closed.is_set():
                pause = 0.0 if self._served else min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, 2 * pause))
                self._began = time.monotonic() + pause
                _log.error("the engine is started again in %g s: %s", pause, error)
                self._closed.wait(pause)

    def _live_once(self, load: Callable[[], Engine]) -> GlmEdgeError:
        """Start a child and follow it to its end; returns what it ended with."""
        self._began = time.monotonic()
        try:
            process = Process(self._patience, lambda: bool(self._open))
        except OSError as error:
            return EngineError(f"the engine's process cannot be started: {error.strerror}")
        with self._lock:
            self._process = process
            closed = self._closed.is_set()  # close() may have looked for a process when there was none yet
        process.send(Close() if closed else Call(_LOAD, "load", load))
        failed = self._follow(process)
        with self._lock:
            loaded, self._ready = self._ready, False  # requests from here on are not the dead child's
        death = process.end()
        self._lose_all(death.why)
        return failed or (EngineError(f"it died: {death.why}") if loaded else death.while_loading())

    def _follow(self, process: Process) -> GlmEdgeError | None:
        """Handle the child's messages until it is dead; returns the error of its load."""
        failed: GlmEdgeError | None = None
        for message in process:
            if isinstance(message, Item):
                self._pass_on(message)
            elif isinstance(message, Beat):
                self._advance(message)
            elif message.id != _LOAD:
                self._answer(message)
            elif message.error is None:
                self._loaded(message.value)
            else:
                failed = self._explained(message.error)
        return failed

    def _loaded(self, info: ModelInfo) -> None:
        self._load_s = time.monotonic() - self._began
        if self._info.done():
            self.info = info  # the file may have been replaced
            _log.info("the engine runs again")
        with self._lock:
            self._ready = True
        if not self._info.done():
            self._info.set_result(info)

    def _explained(self, error: GlmEdgeError) -> GlmEdgeError:
        """The error of a reload: a file that was valid at the first load and is not now has been changed."""
        if self._info.done() and isinstance(error, InvalidFileError):
            return IntegrityError(f"{error}; it was changed after the server was started: put the model file back")
        return error

    def _answer(self, reply: Reply) -> None:
        with self._lock:
            opened = self._open[reply.id]
            if reply.error is not None or opened.generation is None:
                del self._open[reply.id]  # nothing more comes
        if reply.error is not None:
            opened.done.set_exception(reply.error)
            return
        if opened.generation is not None:
            opened.progress = reply.value
        opened.done.set_result(reply.value)

    def _advance(self, beat: Beat) -> None:
        for id, started, progress in beat.waiting:
            opened = self._open.get(id)
            if opened is not None and opened.generation is not None:
                opened.progress = progress
                if started:
                    opened.generation.start()

    def _pass_on(self, message: Item) -> None:
        item = message.item
        opened = self._open.get(message.id)
        if opened is None or opened.generation is None:
            return  # it has ended already; only the first end counts
        generation = opened.generation
        if isinstance(item, Chunk):
            generation.put(item)
            return
        with self._lock:
            del self._open[message.id]
        if item is None:
            self._served = True
            self._quarantine.clear(opened.prompt)
            generation.finish()
        else:
            if type(item) is EngineError:  # it may be the engine's last one before it exits
                self._record_crash(opened.prompt)
            generation.fail(item)

    def _record_crash(self, prompt: bytes) -> None:
        """Once for each child, however many requests have this prompt."""
        if prompt not in self._recorded:
            self._recorded.add(prompt)
            self._quarantine.record_crash(prompt)

    def _lose_all(self, why: str) -> None:
        """The child is dead: end every open call."""
        with self._lock:
            self._ready = False
            lost = list(self._open.values())
            self._open.clear()
        closed = self._closed.is_set()
        died = EngineDiedError(f"the engine died: {why}")
        error = EngineClosedError("the engine is shutting down") if closed else died
        for opened in lost:
            if not closed and opened.generation is not None:
                self._record_crash(opened.prompt)
        for opened in lost:
            if opened.generation is None:
                opened.done.set_exception(error)
                continue
            opened.generation.fail(error)
            if not opened.done.done():  # submit returns; the error comes through the generation
                opened.done.set_result(None)
