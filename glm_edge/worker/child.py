"""The child's side: makes the engine, answers the parent's messages, and never outlives the parent.

The main thread reads messages, so that the end of the pipe is noticed whatever the engine does; another loads, each
request has one that passes its chunks on, and one beats. Terminal signals are the parent's business: Ctrl-C and a
service manager's SIGTERM reach the whole group, and running answers are to end in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from ..errors import EngineError, GlmEdgeError, LoadingError, UnsupportedModelError
from ..generation import Generation
from ..types import Chunk, Engine
from .messages import (
    Beat,
    Cancel,
    Close,
    Ended,
    Load,
    Loaded,
    NotLoaded,
    Piece,
    Pipes,
    Raised,
    Returned,
    Started,
    Submit,
    Tokenize,
)

_Result = TypeVar("_Result")

BEAT_S = 0.5
_FLUSH_S = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Entry point of the child: messages come in on stdin and go out on stdout."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _die_with_parent()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _Child(Pipes(incoming, outgoing)).run()


def _die_with_parent() -> None:
    """Where the system can do it, even when this process hangs. "Parent" is the thread that started us (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


class _Child:
    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._engine: Engine | None = None
        self._answers: dict[int, Generation[Chunk]] = {}
        self._waiting: dict[int, Generation[Chunk]] = {}  # those of which the parent does not know that they started

    def run(self) -> None:
        _thread(self._beat)
        for message in self._pipes:
            if isinstance(message, Load):
                _thread(self._load, message.load)
            elif isinstance(message, Submit):
                _thread(self._submit, message)
            elif isinstance(message, Tokenize):
                _thread(self._tokenize, message)
            elif isinstance(message, Cancel):
                self._cancel(message.id)
            elif isinstance(message, Close):
                break
        else:
            os._exit(0)  # the parent is gone
        if self._engine is not None:
            self._engine.close()
        self._leave(0)

    def _leave(self, code: int) -> None:
        """Native threads may still run, and there is nothing to take apart: what is to be kept has been written."""
        self._pipes.flush(_FLUSH_S)
        sys.stderr.flush()
        os._exit(code)

    def _load(self, load: Callable[[], Engine]) -> None:
        try:
            engine = load()
        except GlmEdgeError as error:
            self._pipes.send(NotLoaded(error))
            self._leave(0)
        except ImportError as error:
            self._pipes.send(NotLoaded(UnsupportedModelError(_missing(error))))
            self._leave(0)
        except BaseException as bug:  # the parent must not wait for ever
            traceback.print_exc()
            self._pipes.send(NotLoaded(EngineError(f"the engine could not be loaded: {type(bug).__name__}: {bug}")))
            self._leave(1)
        else:
            self._engine = engine
            self._pipes.send(Loaded(engine.info))

    def _submit(self, message: Submit) -> None:
        """In a thread of its own: the request's checks, then its chunks until the end."""
        generation = self._call(message.id, lambda engine: engine.submit(message.request))
        if generation is None:
            return
        self._answers[message.id] = self._waiting[message.id] = generation
        self._pipes.send(Returned(message.id, None))
        error: GlmEdgeError | None = None
        try:
            for chunk in generation:
                self._pipes.send(Piece(message.id, chunk))
        except GlmEdgeError as failed:
            error = failed
        self._waiting.pop(message.id, None)
        del self._answers[message.id]
        self._pipes.send(Ended(message.id, error))

    def _tokenize(self, message: Tokenize) -> None:
        ids = self._call(message.id, lambda engine: engine.tokenize(message.text))
        if ids is not None:
            self._pipes.send(Returned(message.id, ids))

    def _call(self, id: int, do: Callable[[Engine], _Result]) -> _Result | None:
        """What the engine gave; None where it raised, and the parent has been told."""
        try:
            if self._engine is None:
                raise LoadingError("the model is still being loaded")
            return do(self._engine)
        except GlmEdgeError as error:
            self._pipes.send(Raised(id, error))
        except BaseException as bug:  # the caller must not wait for ever; its text may quote what a client wrote
            frames = traceback.extract_tb(bug.__traceback__)[-3:]
            place = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in frames[::-1])
            self._pipes.send(Raised(id, EngineError(f"the engine failed: {type(bug).__name__} at {place}")))
        return None

    def _cancel(self, id: int) -> None:
        generation = self._answers.get(id)
        if generation is not None:
            generation.cancel()

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_S):
            for id, generation in list(self._waiting.items()):
                if generation.started:
                    self._waiting.pop(id, None)
                    self._pipes.send(Started(id))
            engine = self._engine
            self._pipes.send(Beat(0 if engine is None else engine.steps))
            if engine is not None and not engine.ready:  # it failed in a way that it cannot go on from
                self._leave(1)


def _missing(error: ImportError) -> str:
    if error.name == "llama_cpp":
        return "llama-cpp-python is not installed; pip install llama-cpp-python, or install glm-edge again"
    return f"a library is missing or broken ({error}); install glm-edge again"


def _thread(do: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=do, args=arguments, daemon=True).start()
