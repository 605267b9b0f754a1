"""The engine as the HTTP layer sees it: not there (yet, or again), there, going away; and how many answers run at once.

Not here: loading and closing the engine (`serve.py`), and the engine's own queue.
"""

from __future__ import annotations

import threading
from typing import Literal

from ..errors import EngineClosedError, LoadingError, OverloadedError
from ..types import Engine

State = Literal["loading", "ok", "shutting_down"]


class Service:
    """Shared by the threads that serve requests and the one that starts and stops the server.

    Args:
        engine: a loaded engine; without one the service is loading until `ready`.
        most: answers at once, queued ones included. Each holds a thread of the server, and some must stay free.
        ping_s: longest silence in a stream, in seconds. Proxies and clients give up on a connection after 15 to 60.
    """

    def __init__(self, engine: Engine | None = None, *, most: int = 32, ping_s: float = 10.0) -> None:
        self.ping_s = ping_s
        self._engine = engine
        self._free = threading.Semaphore(most)
        self._draining = threading.Event()
        self._aborted = threading.Event()

    def ready(self, engine: Engine) -> None:
        """The model is loaded."""
        self._engine = engine

    def drain(self) -> None:
        """Take no new requests; those that still wait in the engine's queue are turned away too."""
        self._draining.set()

    def abort(self) -> None:
        """End the running answers as well."""
        self._draining.set()
        self._aborted.set()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    @property
    def state(self) -> State:
        if self.draining:
            return "shutting_down"
        return "ok" if self._engine is not None and self._engine.ready else "loading"

    @property
    def engine(self) -> Engine:
        """Raises LoadingError or EngineClosedError when there is none to use."""
        if self.draining:
            raise EngineClosedError("the server is shutting down")
        if self._engine is None:
            raise LoadingError("the model is still being loaded; try again in a few seconds")
        return self._engine

    def enter(self) -> None:
        """Take a place for an answer; give it back with `leave`. Raises OverloadedError at once when all are taken."""
        if not self._free.acquire(blocking=False):
            raise OverloadedError("the server has as many requests as it can hold; try again later", retry_after=5.0)

    def leave(self) -> None:
        self._free.release()
