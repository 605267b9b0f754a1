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
from functools import partial

from ..errors import (
    EngineClosedError,
    EngineError,
    GlmEdgeError,
    IntegrityError,
    InvalidFileError,
    LoadingError,
)
from ..generation import Generation
from ..system.threads import start
from ..types import Chunk, Engine, Message, ModelInfo, Request, SamplingParams
from .calls import OpenCall, OpenCalls
from .crash_quarantine import CrashQuarantine
from .load_progress import LOAD_PROGRESS
from .messages import Beat, Call, Close, Failed, Item
from .process import Process

PATIENCE_S = 60.0  # one node of a batch's graph takes at most seconds on the slowest devices
_CLOSE_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0  # between two starts
_LOAD = -1  # the id of the call that loads; those of requests are counted from 0

_log = logging.getLogger("glm_edge.worker")


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
        self._lock = threading.Lock()  # guards _process and _closed; held for moments only
        self._process: Process | None = None
        self._failure: GlmEdgeError | None = None
        self._served = False  # whether this child has answered a request
        self._pause = 0.0  # seconds between the last child's end and the next one's start
        self._began = 0.0  # when this child was started, or the next will be
        self._load_s = 0.0  # how long the last load took
        self._ids = itertools.count()
        self._closed = threading.Event()
        self._quarantine = CrashQuarantine()
        self._calls = OpenCalls(self._quarantine)
        self._info: Future[ModelInfo] = Future()
        self._supervisor = start(threading.Thread(target=self._supervise, name="worker", daemon=True))
        try:
            self.info = self._info.result()
        except BaseException:
            self.close()
            raise

    @property
    def ready(self) -> bool:
        return self._calls.ready

    @property
    def failure(self) -> GlmEdgeError | None:
        """See types.Engine; it is tried again all the same, until `ended`."""
        return self._failure

    @property
    def ended(self) -> bool:
        return self._closed.is_set()

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
        # with the scope: whose request kills, by its schema say, must not get the same text refused to others, or
        # learn that they asked it
        text = repr((request.prefix_scope, request.adapter, request.messages, request.prompts))
        prompt = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        self._quarantine.check(prompt)
        opened = OpenCall(Call(id, "submit", request), prompt=prompt)
        generation = opened.generation = Generation(lambda: self._calls.cancel(id), lambda: opened.progress)
        self._enter(opened)
        if opened.sent is not None:  # others wait for their turn in the generation
            opened.done.result()
        return generation

    def tokenize(self, text: str, check: Callable[[], None] = lambda: None) -> list[int]:
        """See types.Engine."""
        opened = OpenCall(Call(next(self._ids), "tokenize", text))
        self._enter(opened)
        try:
            ids: list[int] = opened.value(check)
        finally:
            self._calls.cancel(opened.call.id)  # does nothing where the reply is there
        return ids

    def reload_adapters(self) -> ModelInfo:
        """See types.Engine."""
        opened = OpenCall(Call(next(self._ids), "adapters", None))
        self._enter(opened)
        info: ModelInfo = opened.done.result()
        self.info = info
        return info

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

    def _enter(self, opened: OpenCall) -> None:
        """Hand over a call."""
        if not self._calls.enter(opened):
            if self._closed.is_set():
                raise EngineClosedError("the engine is shutting down")
            raise LoadingError("the engine is being restarted; try again later", retry_after=self._back_in())

    def _back_in(self) -> float:
        """Seconds until the engine is loaded again, if that takes as long as the last time."""
        return max(1.0, self._began + self._load_s - time.monotonic())

    def _supervise(self) -> None:
        """In a thread of its own: one child after the other, until closed or not even the first can be loaded."""
        try:
            self._restart_until_closed()
        except BaseException as bug:  # nobody must wait for ever
            self._closed.set()
            if self._process is not None:
                self._process.kill()
            self._failure = EngineError(f"the engine's supervisor failed: {type(bug).__name__}: {bug}")
            self._calls.lose(f"its supervisor failed: {type(bug).__name__}", closed=True)
            if not self._info.done():
                self._info.set_exception(self._failure)
            raise

    def _restart_until_closed(self) -> None:
        while not self._closed.is_set():
            load = self._reload if self._info.done() else self._load
            error = self._live_once(partial(_tested, load) if isinstance(self._failure, IntegrityError) else load)
            if not self._info.done():
                self._info.set_exception(error)
                return
            if not self._closed.is_set():
                _log.error("the engine is started again in %g s: %s", self._pause, error)
                self._closed.wait(self._pause)

    def _live_once(self, load: Callable[[], Engine]) -> GlmEdgeError:
        """Start a child and follow it to its end; returns what it ended with."""
        self._served = False
        self._began = time.monotonic()
        try:
            process = Process(self._patience, lambda: self._calls.computed)
        except GlmEdgeError as error:
            self._plan_next()
            return error
        with self._lock:
            self._process = process
            closed = self._closed.is_set()  # close() may have looked for a process when there was none yet
        process.send(Close() if closed else Call(_LOAD, "load", load))
        failed = self._follow(process)
        loaded = self._calls.stop()  # requests from here on are not the dead child's
        death = process.end()
        self._plan_next()
        self._calls.lose(death.why, back_in=self._back_in(), closed=self._closed.is_set())
        return failed or (EngineError(f"it died: {death.why}") if loaded else death.while_loading())

    def _plan_next(self) -> None:
        """When the next child is started: at once after one that served, later and later after others."""
        self._pause = 0.0 if self._served else min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, 2 * self._pause))
        self._began = time.monotonic() + self._pause

    def _follow(self, process: Process) -> GlmEdgeError | None:
        """Handle the child's messages until it is dead; returns what its load or its engine failed with."""
        failed: GlmEdgeError | None = None
        for message in process:
            if isinstance(message, Item):
                self._served = self._calls.pass_on(message) or self._served
            elif isinstance(message, Beat):
                self._calls.advance(message)
                LOAD_PROGRESS.report(message.loaded)
            elif isinstance(message, Failed):
                self._calls.stop()
                failed = self._failure = message.error
            elif message.id != _LOAD:
                self._calls.answer(message)
            elif message.error is None:
                self._loaded(process, message.value)
            else:
                failed = self._failure = self._explained(message.error)
        return failed

    def _loaded(self, process: Process, info: ModelInfo) -> None:
        self._load_s = time.monotonic() - self._began
        if self._info.done():
            self.info = info  # the file may have been replaced
            _log.info("the engine runs again")
        self._failure = None
        self._calls.start(process.send)
        if not self._info.done():
            self._info.set_result(info)

    def _explained(self, error: GlmEdgeError) -> GlmEdgeError:
        """The error of a reload: a file that was valid at the first load and is not now has been changed."""
        if self._info.done() and isinstance(error, InvalidFileError):
            return IntegrityError(f"{error}; it was changed after the server was started: put the model file back")
        return error


def _tested(load: Callable[[], Engine]) -> Engine:
    """In the child: an engine that has given one token. Raises IntegrityError where its weights give no numbers."""
    engine = load()
    for _ in engine.submit(Request((Message("user", "1"),), SamplingParams(0), max_tokens=1)):
        pass
    return engine
