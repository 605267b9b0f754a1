"""The engine as the HTTP layer sees it: not there (yet, or again), there, going away; and who has places for answers.

Not here: loading and closing the engine (`serve.py`), and the engine's own queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..errors import EngineClosedError, LoadingError, OverloadedError, RateLimitError, RequestError
from ..types import Engine

State = Literal["loading", "ok", "shutting_down"]

SPARE = 8  # requests besides the engine's places: they get its own word that it is full, and when to come again
_FADE = 0.9  # weight of what is known of the time that answers take when another one ends
_RETRY_S = 5.0  # until another try, while nothing is known


@dataclass(eq=False)
class Lease:
    """What one request holds, until `leave`."""

    key: bytes
    n: int  # answers
    _leave: Callable[[Lease], None]
    taken: bool = False  # by the engine: from then on the time counts as what answers take
    since: float = field(default_factory=time.monotonic)

    def leave(self) -> None:
        self._leave(self)


class Admission:
    """Shared by the threads that serve requests and the one that starts and stops the server.

    Args:
        engine: a loaded engine; without one the service is loading until `ready`.
        places: requests at once that the engine has room for, those in its queue included. Each holds a thread of the
            server, and some must stay free.
        per_key: answers at once that one key may have; None is half of the places where there are other keys.
        max_wait_s: longest wait in the queue; OpenAI's clients give up after so long.
        ping_s: longest silence in a stream, in seconds. Proxies and clients give up on a connection after 15 to 60.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        capacity: int = 24,
        per_key: int | None = None,
        max_wait_s: float = 600.0,
        ping_s: float = 10.0,
    ) -> None:
        self.max_wait_s = max_wait_s
        self.ping_s = ping_s
        self._engine = engine
        self._capacity = capacity
        self._per_key = per_key
        self._lock = threading.Lock()  # guards the next two
        self._held: set[Lease] = set()
        self._mean_s = 0.0  # that a request which the engine took keeps its places, running mean; 0 while unknown
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

    def enter(self, key: bytes = b"", n: int = 1, *, others: bool = False) -> Lease:
        """Take places for `n` answers to a request with this key.

        Args:
            others: whether there are other keys, which shall find places too.

        Raises, at once, OverloadedError when all are taken, RateLimitError when the key has its share of them.
        """
        most = self._per_key or (max(1, self._capacity // 2) if others else None)
        with self._lock:
            if len(self._held) >= self._capacity + SPARE:
                raise OverloadedError("the server has as many requests as it can hold; try again", retry_after=1.0)
            if most is not None:
                self._check_share(key, n, most)
            lease = Lease(key, n, self._leave)
            self._held.add(lease)
        return lease

    def _check_share(self, key: bytes, n: int, most: int) -> None:
        if n > most:
            raise RequestError(f"n: a key may have {most} answers at once, not {n}", param="n", code="invalid_value")
        own = [held for held in self._held if held.key == key]
        if sum(held.n for held in own) + n > most:
            # each takes the mean, so among this many one ends in the mean divided by their number (Little's law)
            wait = self._mean_s / len(own) if self._mean_s else _RETRY_S
            raise RateLimitError(
                f"this key has {most} answers running or waiting, which is its share; wait for one of them",
                retry_after=wait,
            )

    def _leave(self, lease: Lease) -> None:
        seconds = time.monotonic() - lease.since
        with self._lock:
            self._held.discard(lease)
            if lease.taken:
                self._mean_s = _FADE * self._mean_s + (1 - _FADE) * seconds if self._mean_s else seconds
