"""Worker: an engine that runs in a child process, and is started again when it dies.

One thread starts a child, reads what it says until it dies, fails what it was working on, and starts the next. The
parent itself loads nothing native.
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
    EngineError,
    GlmEdgeError,
    LoadingError,
    OverloadedError,
    RepeatedCrashError,
)
from ..generation import Generation
from ..types import Chunk, Engine, ModelInfo, Request
from .messages import Cancel, Close, Ended, Loaded, NotLoaded, Piece, Raised, Returned, Started, Submit, Tokenize
from .process import Process

PATIENCE_S = 60.0  # one node of a batch's graph takes at most seconds on the slowest devices
_CLOSE_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0  # between two attempts to start it
_MOST_DEATHS = 3  # of the engine while it answered the same prompt
_REMEMBERED_S = 600.0  # a prompt may have been there by chance

_log = logging.getLogger("glm_edge.worker")


@dataclass
class _Call:
    """What a thread waits for: that the request was taken, or what a call gives."""

    done: Future[Any] = field(default_factory=Future)
    generation: Generation[Chunk] | None = None
    prompt: bytes = b""  # a hash


class Worker:
    """The Engine protocol, see types.Engine, with the engine in another process.

    Args:
        load: makes the engine in the child. Must be importable there: a function of a module, or a partial of one.
        patience: seconds without progress, while there are requests, after which the engine counts as hung.

    Returns when the model is loaded. Raises what `load` raises, or an error that says how the child died.
    """

    def __init__(self, load: Callable[[], Engine], *, patience: float = PATIENCE_S) -> None:
        self._load = load
        self._patience = patience
        self._lock = threading.Lock()  # guards _calls, _process and _ready
        self._calls: dict[int, _Call] = {}
        self._process: Process | None = None
        self._ready = False
        self._served = False  # something, since it was last started
        self._ids = itertools.count()
        self._closed = threading.Event()
        self._suspects = Suspects()
        self._accused: set[bytes] = set()  # since it was last started
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
        """Of the child, the last one if there is none now."""
        if self._process is None:
            raise EngineError("the engine was never started")
        return self._process.pid

    def submit(self, request: Request) -> Generation[Chunk]:
        """See types.Engine; RepeatedCrashError for a prompt that the engine does not survive."""
        id = next(self._ids)
        prompt = hashlib.sha256(repr((request.messages, request.prompt)).encode("utf-8", "surrogatepass")).digest()
        self._suspects.check(prompt)
        generation: Generation[Chunk] = Generation(on_cancel=lambda: self._cancel(id))
        self._call(id, _Call(generation=generation, prompt=prompt), Submit(id, request))
        return generation

    def tokenize(self, text: str) -> list[int]:
        """See types.Engine."""
        id = next(self._ids)
        ids: list[int] = self._call(id, _Call(), Tokenize(id, text))
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

    def _call(self, id: int, call: _Call, message: object) -> Any:
        with self._lock:
            if self._closed.is_set():
                raise EngineClosedError("the engine is shutting down")
            if self._process is None or not self._ready:
                raise LoadingError("the engine is being restarted; try again in a few seconds")
            self._process.send(message)  # the answer is read only after the lock is free
            self._calls[id] = call
        return call.done.result()

    def _cancel(self, id: int) -> None:
        with self._lock:
            if id in self._calls and self._process is not None:
                self._process.send(Cancel(id))

    def _supervise(self) -> None:
        """In a thread of its own: one child after the other, until closed or not even the first can be loaded."""
        pause = 0.0
        while not self._closed.is_set():
            self._served = False
            self._accused.clear()
            error = self._live_once()
            if not self._info.done():
                self._info.set_exception(error)
                return
            if not self._closed.is_set():
                pause = 0.0 if self._served else min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, 2 * pause))
                _log.error("the engine is started again in %g s: %s", pause, error)
                self._closed.wait(pause)

    def _live_once(self) -> GlmEdgeError:
        """Start a child and follow it to its end; what it ended with."""
        try:
            with self._lock:
                if self._closed.is_set():
                    return EngineClosedError("the engine is shutting down")
                process = self._process = Process(self._load, self._patience, lambda: bool(self._calls))
        except OSError as error:
            return EngineError(f"the engine's process cannot be started: {error.strerror}")
        failed = self._follow(process)
        loaded = self._ready
        death = process.end()
        self._lose_calls(death.why)
        return failed or (EngineError(f"it died: {death.why}") if loaded else death.while_loading())

    def _follow(self, process: Process) -> GlmEdgeError | None:
        """Pass on what the child says until it is dead; the error that its load ended with."""
        failed: GlmEdgeError | None = None
        for message in process:
            if isinstance(message, Loaded):
                self._loaded(message.info)
            elif isinstance(message, NotLoaded):
                failed = message.error
            else:
                self._route(message)
        return failed

    def _loaded(self, info: ModelInfo) -> None:
        if self._info.done():
            self.info = info  # the file may be another one by now
            _log.info("the engine runs again")
        with self._lock:
            self._ready = True
        if not self._info.done():
            self._info.set_result(info)

    def _route(self, message: Returned | Raised | Started | Piece | Ended) -> None:
        with self._lock:
            call = self._calls.get(message.id)
        if call is None:
            return
        generation = call.generation
        if isinstance(message, Raised | Ended) or generation is None:
            with self._lock:
                del self._calls[message.id]
        if isinstance(message, Returned):
            call.done.set_result(message.value)
        elif isinstance(message, Raised):
            call.done.set_exception(message.error)
        elif generation is not None:
            self._advance(generation, call.prompt, message)

    def _advance(self, generation: Generation[Chunk], prompt: bytes, message: Started | Piece | Ended) -> None:
        if isinstance(message, Piece):
            generation.put(message.chunk)
        elif isinstance(message, Started):
            generation.start()
        elif message.error is None:
            self._served = True
            self._suspects.clear(prompt)
            generation.finish()
        else:
            if not isinstance(message.error, EngineClosedError | OverloadedError | LoadingError):
                self._accuse(prompt)
            generation.fail(message.error)

    def _accuse(self, prompt: bytes) -> None:
        """Once for each child, however many asked the same."""
        if prompt not in self._accused:
            self._accused.add(prompt)
            self._suspects.accuse(prompt)

    def _lose_calls(self, why: str) -> None:
        """The child is dead: everyone who waits for it is told."""
        with self._lock:
            self._ready = False
            calls = list(self._calls.values())
            self._calls.clear()
        closed = self._closed.is_set()
        error = EngineClosedError("the engine is shutting down") if closed else EngineError(f"the engine died: {why}")
        for call in calls:
            if not closed and call.generation is not None:
                self._accuse(call.prompt)
        for call in calls:
            if call.generation is None:
                call.done.set_exception(error)
                continue
            call.generation.fail(error)
            if not call.done.done():  # as if it had been taken first: whoever submits learns of deaths in one way
                call.done.set_result(None)


class Suspects:
    """Prompts that were being answered when the engine died, and how often lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: dict[bytes, list[float]] = {}

    def check(self, prompt: bytes) -> None:
        """Raises RepeatedCrashError for one that was there too often."""
        with self._lock:
            self._forget()
            if len(self._deaths.get(prompt, ())) >= _MOST_DEATHS:
                raise RepeatedCrashError(
                    f"the engine died {_MOST_DEATHS} times while it answered this prompt; it is refused for"
                    f" {_REMEMBERED_S / 60:g} minutes"
                )

    def accuse(self, prompt: bytes) -> None:
        with self._lock:
            self._forget()
            self._deaths.setdefault(prompt, []).append(self._clock())

    def clear(self, prompt: bytes) -> None:
        """It was answered."""
        with self._lock:
            self._deaths.pop(prompt, None)

    def _forget(self) -> None:
        since = self._clock() - _REMEMBERED_S
        self._deaths = {
            prompt: late for prompt, times in self._deaths.items() if (late := [t for t in times if t > since])
        }
