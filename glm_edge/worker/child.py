"""The child's side: makes the engine, answers the parent's messages, and never outlives the parent.

The main thread only reads messages, so it notices the end of the pipe whatever the engine does. Each call has a thread
of its own until it is answered. The engine's thread writes chunks as they are made. One more thread sends heartbeats.
The child ignores terminal signals: Ctrl-C and a service manager's SIGTERM reach the whole process group, and the parent
decides how running answers end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from functools import partial

from ..errors import EngineError, GlmEdgeError, LoadingError, OutOfMemoryError, RequestError, UnsupportedModelError
from ..generation import Generation
from ..system.private import forbid_core_files
from ..system.threads import start
from ..types import Chunk, Engine
from .load_progress import LOAD_PROGRESS
from .messages import Beat, Call, Cancel, Close, Failed, Item, Pipes, Reply

BEAT_S = 0.5
_NEWS_S = 0.1  # between beats while requests wait for their first text
_NEWS_EACH_S = 0.002  # longer for each of them: to tell hundreds takes milliseconds, in which no token is written
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Entry point of the child: messages come in on stdin and go out on stdout."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _die_with_parent()
    forbid_core_files()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _Child(Pipes(incoming, outgoing)).run()


def _die_with_parent() -> None:
    """On Linux, even if this process hangs. The "parent" is the thread that started us (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


class _Child:
    """The child's state: its engine, and the requests that it has not answered."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._engine: Engine | None = None
        self._closing = False
        self._answers: dict[int, Generation[Chunk]] = {}
        self._waiting: dict[int, Generation[Chunk]] = {}  # those without a chunk
        self._unwanted: dict[int, threading.Event] = {}  # of each call without an answer: set when nobody waits for it

    def run(self) -> None:
        start(threading.Thread(target=self._beat, name="heartbeat", daemon=True))
        for message in self._pipes:
            if isinstance(message, Call):
                self._take(message)
            elif isinstance(message, Cancel):
                self._cancel(message.id)
            elif isinstance(message, Close):
                break
        else:
            os._exit(0)  # the parent is gone
        self._closing = True
        if self._engine is not None:
            self._engine.close()
        _leave(0)

    def _take(self, call: Call) -> None:
        """Answer a call in a thread of its own; with an error where there is none."""
        loading = call.do == "load"
        if not loading:
            self._unwanted[call.id] = threading.Event()
        do = self._load if loading else self._answer
        try:
            start(threading.Thread(target=do, args=(call,), name="load" if loading else "call", daemon=True))
        except OutOfMemoryError as error:
            self._unwanted.pop(call.id, None)
            self._pipes.send(Reply(call.id, None, error))
            if loading:
                _leave(1)

    def _load(self, call: Call) -> None:
        try:
            self._engine = call.argument()
            reply = Reply(call.id, self._engine.info)
        except GlmEdgeError as error:
            reply = Reply(call.id, None, error)
        except ImportError as error:
            message = f"a library is missing or broken ({error}); install glm-edge again"
            reply = Reply(call.id, None, UnsupportedModelError(message))
        except BaseException as bug:  # the parent must not wait for ever
            traceback.print_exc()
            message = f"the engine could not be loaded: {type(bug).__name__}: {bug}"
            reply = Reply(call.id, None, EngineError(message))
        self._pipes.send(reply)
        if reply.error is not None:
            _leave(1)

    def _answer(self, call: Call) -> None:
        generation: Generation[Chunk] | None = None
        try:
            if self._engine is None:
                raise LoadingError("the model is still being loaded")
            if call.do == "tokenize":
                reply = Reply(call.id, self._engine.tokenize(call.argument, partial(self._check_wanted, call.id)))
            elif call.do == "adapters":
                reply = Reply(call.id, self._engine.reload_adapters())
            else:
                generation = self._engine.submit(call.argument)
                reply = Reply(call.id, generation.progress)
        except GlmEdgeError as error:
            reply = Reply(call.id, None, error)
        except BaseException as bug:  # the caller must not wait for ever; no str(bug): it may quote a client
            frames = traceback.extract_tb(bug.__traceback__)[-3:]
            place = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in frames[::-1])
            reply = Reply(call.id, None, EngineError(f"the engine failed: {type(bug).__name__} at {place}"))
        if generation is None:
            self._unwanted.pop(call.id, None)
            self._pipes.send(reply)
            return
        self._answers[call.id] = self._waiting[call.id] = generation
        if self._unwanted.pop(call.id).is_set():  # its reader left while it was tokenized
            generation.cancel()
        self._pipes.send(reply)
        generation.forward(partial(self._pass_on, call.id))

    def _pass_on(self, id: int, item: Chunk | GlmEdgeError | None) -> None:
        """In the engine's thread: send a chunk or the end to the parent."""
        self._waiting.pop(id, None)
        if not isinstance(item, Chunk):
            self._answers.pop(id, None)
        self._pipes.send(Item(id, item))

    def _cancel(self, id: int) -> None:
        generation, unwanted = self._answers.get(id), self._unwanted.get(id)
        if generation is not None:
            generation.cancel()
        if unwanted is not None:
            unwanted.set()

    def _check_wanted(self, id: int) -> None:
        if self._unwanted[id].is_set():
            raise RequestError("nobody waits for the ids of this text")

    def _beat(self) -> None:
        pause = threading.Event()
        failed = False
        while not pause.wait(min(BEAT_S, _NEWS_S + _NEWS_EACH_S * len(self._waiting)) if self._waiting else BEAT_S):
            waiting = [(id, one.started, one.progress) for id, one in list(self._waiting.items())]
            engine = self._engine
            steps = 0 if engine is None else engine.steps
            self._pipes.send(Beat(steps, tuple(waiting), LOAD_PROGRESS.done))
            if failed and not self._closing:
                _leave(1)
            # an engine that has failed gets one more beat to tell those who wait
            failed = engine is not None and not engine.ready
            if failed and engine is not None and engine.failure is not None:
                self._pipes.send(Failed(engine.failure))


def _leave(code: int) -> None:
    """Exit at once: native threads may still run, and everything that is saved has been written."""
    sys.stderr.flush()
    os._exit(code)
