"""Engines that die in ways a test asks for; made in a worker's child, so they are functions of a module."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from glm_edge.errors import EngineError, IntegrityError, OverloadedError
from glm_edge.generation import Generation
from glm_edge.types import Chunk, Engine, EngineConfig, Request, Stats
from support.engines.fake_engine import FakeEngine, Step


def real(config: EngineConfig) -> Engine:
    from glm_edge.engine.engine import LlamaEngine  # here, so that children with other engines start sooner

    return LlamaEngine(config)


def tiny(model: Path, slots: int = 4) -> partial[Engine]:
    return partial(real, EngineConfig(model, n_threads=1, n_ctx=2048, kv_type="f32", slots=slots))


def obeys() -> Engine:
    """Does what the last message says."""
    return FakeEngine(_orders)


def _orders(request: Request) -> Sequence[Step]:
    order = request.messages[-1].content
    if order.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, order))
        threading.Event().wait()  # the signal may take a moment
    if order == "hang":
        return ["a", threading.Event()]
    if order == "fail":
        return [EngineError("failed")]
    if order == "full":
        return [OverloadedError("full", retry_after=7.5)]
    if order == "many":
        return ["一"] * 20_000
    return ["a", "b"]


def dies(name: str) -> Engine:
    """While loading."""
    os.kill(os.getpid(), getattr(signal, name))
    return never()  # the signal may take a moment


def spoilt() -> Engine:
    raise IntegrityError("model.gguf: not the file it was")


def bug() -> Engine:
    raise KeyError("a bug in loading")


def needs_a_library() -> Engine:
    raise ModuleNotFoundError("No module named 'numpy'", name="numpy")


class _Tokenizes(FakeEngine):
    """Tokenizes without an end."""

    def __init__(self, told: Path) -> None:
        super().__init__()
        self.may_tokenize.clear()
        self._told = told

    def tokenize(self, text: str, check: Callable[[], None] = lambda: None) -> list[int]:
        self._told.write_text("begun", "utf-8")
        try:
            return super().tokenize(text, check)
        finally:
            self._told.write_text("ended", "utf-8")


def tokenizes(told: Path) -> Engine:
    """Writes into a file when it begins and when it ends to tokenize."""
    return _Tokenizes(told)


class _SlowToSubmit(FakeEngine):
    """Takes a request when a file is gone."""

    def __init__(self, told: Path) -> None:
        super().__init__([threading.Event()])
        self._told = told

    def submit(self, request: Request) -> Generation[Chunk]:
        self._told.write_text("begun", "utf-8")
        while self._told.exists():
            time.sleep(0.005)
        generation = super().submit(request)
        threading.Thread(target=self._tell, args=(generation,), daemon=True).start()
        return generation

    def _tell(self, generation: Generation[Chunk]) -> None:
        while not generation.cancelled:
            time.sleep(0.005)
        generation.put(Chunk("", 0, "cancelled", Stats(1, 0, 0, 0.0, 0.0, 0.0)))
        generation.finish()


def slow_to_submit(told: Path) -> Engine:
    """Writes a file when it begins to take a request, and goes on when that is removed; ends a cancelled one."""
    return _SlowToSubmit(told)


class _SlowToClose(FakeEngine):
    def __init__(self, kept: Path) -> None:
        super().__init__()
        self._cached = kept

    def close(self) -> None:
        super().close()
        time.sleep(1.5)  # several beats
        self._cached.write_text("what is to be kept", "utf-8")


def slow_to_close(kept: Path) -> Engine:
    """Writes a file at the end of its life."""
    return _SlowToClose(kept)


class _Broken(FakeEngine):
    """Cannot go on from its first request, which learns why."""

    @property
    def ready(self) -> bool:
        return not self.requests


def broken() -> Engine:
    return _Broken([EngineError("out of order")])


def no_thread_for_a_call() -> Engine:
    """In a process that gets no thread for its first call after the load."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.current_thread() is threading.main_thread():  # which reads the calls
            threading.Thread.start = start  # type: ignore[method-assign]
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = refuse  # type: ignore[method-assign]
    return FakeEngine()


def never() -> Engine:
    threading.Event().wait()
    raise AssertionError


def says_hello() -> Engine:
    """Prints on stdout, as libraries do."""
    print("hello")
    os.write(1, b"hello again\n")
    sys.stdout.flush()
    return FakeEngine()
