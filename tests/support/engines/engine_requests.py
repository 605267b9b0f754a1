"""What tests of engines ask, and how they read it; a Worker that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from glm_edge.errors import GlmEdgeError
from glm_edge.generation import Generation
from glm_edge.types import Chunk, Engine, Message, Request, SamplingParams
from glm_edge.worker import Worker
from support.server.live_server import eventually

GREEDY = SamplingParams(0)
_SILENCE_S = 60.0


def ask(text: str, max_tokens: int | None = 20, sampling: SamplingParams = GREEDY) -> Request:
    return Request((Message("user", text),), sampling, max_tokens)


def text(generation: Generation[Chunk]) -> str:
    """All of it. A silence of a minute fails the test; without a limit it would hang the run."""
    pieces = []
    while (chunk := generation.get(_SILENCE_S)) is not None:
        pieces.append(chunk.text)
    return "".join(pieces)


def failure(generation: Generation[Chunk]) -> GlmEdgeError:
    """What it ends with."""
    with pytest.raises(GlmEdgeError) as caught:
        text(generation)
    return caught.value


@contextmanager
def worker(load: Callable[[], Engine], patience: float = 60.0) -> Iterator[Worker]:
    engine = Worker(load, patience=patience)
    try:
        yield engine
    finally:
        engine.close()
        assert not psutil.pid_exists(engine.pid)


def works_again(engine: Worker) -> bool:
    return eventually(lambda: engine.ready, 60)
