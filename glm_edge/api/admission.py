"""Admission: whether the engine is there, and which requests may go to it at once.

Not here: loading and closing the engine (`serve.py`); the engine's own queue, and how long a request waits in it, which
the engine estimates (`engine/eta.py`) and Progress brings here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import EngineClosedError, LoadingError, OverloadedError, RateLimitError, RequestError
from ..types import Engine
from .config import ServeConfig

State = Literal["loading", "ok", "failed", "shutting_down"]

_REFUSALS_PER_SECOND = 4.0  # that are told at once

SPARE_REQUESTS = 8  # above the capacity: the engine refuses these itself, and says when to come again
_DECAY = 0.9  # weight of the running mean when another request ends
_RETRY_S = 5.0  # until another try, while nothing is known


@dataclass(eq=False)
class Lease:
    """One request's part of the capacity, from `Admission.acquire` to `release`."""

    key: bytes
    n: int  # answers
    since: float
    _release: Callable[[Lease], None]
    accepted: bool = False  # by the engine: only then its time counts as what answers take

    def release(self) -> None:
        self._release(self)


class RefusalPace:
    """When refusals are told: some at once, the others later, so that clients that come again and again, whatever
    Retry-After says, leave the processor to the answers.

    Args:
        at_once: refusals that are told at once after a quiet time; 4 more are each second.
        held_s: how long the others are held back. A client that waits for its answer does not ask again.
        clock: seconds, monotonic.
    """

    def __init__(self, at_once: int = 40, held_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._held_s = held_s
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(at_once)
        self._since = clock()

    def delay(self) -> float:
        """Seconds that the next refusal is to be held back."""
        with self._lock:
            now = self._clock()
            self._left = min(self._at_once, self._left + _REFUSALS_PER_SECOND * (now - self._since))
            self._since = now
            if self._left < 1:
                return self._held_s
            self._left -= 1
            return 0.0


class Admission:
    """The server's state and the leases on its capacity.

    Shared by the threads that serve requests and the one that starts and stops the server.

    Args:
        engine: a loaded engine; without one the server is loading until `ready`.
        capacity, per_key, max_wait_s: see ServeConfig. Each request holds a thread of the server, and some threads must
            stay free.
        wait_for_model: whether requests wait while the model is loaded (`model_queue.py`), or are refused.
        load_left_s: seconds until the model is loaded; None while that is unknown.
        ping_s: longest silence in a stream, in seconds. Proxies and clients give up on a connection after 15 to 60.
        refusals: when requests that are too many are told so.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        capacity: int = ServeConfig.capacity,
        per_key: int | None = None,
        max_wait_s: float = ServeConfig.max_wait,
        wait_for_model: bool = False,
        load_left_s: Callable[[], float | None] = lambda: None,
        ping_s: float = 10.0,
        refusals: RefusalPace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_wait_s = max_wait_s
        self.ping_s = ping_s
        self.load_left_s = load_left_s
        self._wait_for_model = wait_for_model
        self.refusals = refusals or RefusalPace()
        self.on_ready: Callable[[], None] = lambda: None  # called when the model is loaded
        self._engine = engine
        self._capacity = capacity
        self._per_key = per_key
        self._clock = clock
        self._lock = threading.Lock()  # guards the next two
        self._leases: set[Lease] = set()
        self._mean_s = 0.0  # running mean of how long an accepted request holds its lease; 0 while unknown
        self._draining = threading.Event()
        self._aborted = threading.Event()

    def ready(self, engine: Engine) -> None:
        """The model is loaded."""
        self._engine = engine
        self.on_ready()

    def drain(self) -> None:
        """Take no new requests; those that wait in the engine's queue and have no byte of an answer are turned away."""
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
        if self._engine is None or self._engine.ready:
            return "loading" if self._engine is None else "ok"
        return "loading" if self._engine.failure is None else "failed"

    @property
    def requests(self) -> int:
        """How many requests hold a lease."""
        return len(self._leases)

    @property
    def must_wait(self) -> bool:
        """Whether requests have to wait for the model now."""
        return self._wait_for_model and self.state == "loading"

    @property
    def engine(self) -> Engine:
        """Raises LoadingError or EngineClosedError when there is none to use."""
        if self.draining:
            raise EngineClosedError("the server is shutting down")
        if self._engine is None:
            raise LoadingError("the model is still being loaded; try again in a few seconds")
        return self._engine

    def acquire(self, key: bytes = b"", n: int = 1, *, others: bool = False) -> Lease:
        """A lease for a request with this key and `n` answers.

        Args:
            others: whether there are other keys, for which capacity must be left.

        Raises, at once, OverloadedError when no capacity is left, RateLimitError when the key has its share of it.
        """
        most = self._per_key or (max(1, self._capacity // 2) if others else None)
        with self._lock:
            if len(self._leases) >= self._capacity + SPARE_REQUESTS:
                raise OverloadedError("the server has as many requests as it can hold; try again", retry_after=1.0)
            if most is not None:
                self._check_share(key, n, most)
            lease = Lease(key, n, self._clock(), self._release)
            self._leases.add(lease)
        return lease

    def _check_share(self, key: bytes, n: int, most: int) -> None:
        if n > most:
            raise RequestError(f"n: a key may have {most} answers at once, not {n}", param="n", code="invalid_value")
        own = [lease for lease in self._leases if lease.key == key]
        if sum(lease.n for lease in own) + n > most:
            # each takes the mean time, so of this many the next one ends in that time divided by their number
            wait = self._mean_s / len(own) if self._mean_s else _RETRY_S
            raise RateLimitError(
                f"this key has {most} answers running or waiting, which is its share; wait for one of them",
                retry_after=wait,
            )

    def _release(self, lease: Lease) -> None:
        seconds = self._clock() - lease.since
        with self._lock:
            self._leases.discard(lease)
            if lease.accepted:
                self._mean_s = _DECAY * self._mean_s + (1 - _DECAY) * seconds if self._mean_s else seconds
