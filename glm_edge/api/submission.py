"""One request's way into the engine: its lease, its wait for the model where it must, then the stream of its answers.

Free of Flask, as `stream.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ..generation import Progress
from ..types import Request
from .admission import Admission, Lease
from .contract.answers.serializer import Serializer
from .contract.errors import error_response
from .model_queue import ModelQueue
from .stream import ClientGoneError, ResponseStream, changes, error_event


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    key: bytes
    others: bool  # whether there are other keys
    prefix_scope: bytes
    request_id: str
    gone: Callable[[], bool]  # whether the client has closed the connection


class Submission:
    """The way of one request. When it is closed, its lease ends, and so does an unfinished answer.

    Args:
        on_stream: called when the engine has taken the request.
    """

    def __init__(
        self, admission: Admission, queue: ModelQueue, caller: Caller, on_stream: Callable[[ResponseStream], None]
    ) -> None:
        self._admission = admission
        self._queue = queue
        self._caller = caller
        self._on_stream = on_stream
        self._made = ExitStack()
        self._lease: Lease | None = None
        self._waiting: Iterator[Progress] = iter(())
        self.stream: ResponseStream | None = None  # once the engine has taken it
        self._error: Exception | None = None
        self._began: float | None = None  # when it began to wait for the model

    def wait(self, asked: Request, seconds: float = math.inf) -> bool:
        """Wait for the model, where requests do, up to `seconds`; whether the request may be submitted.

        Raises as ModelQueue.wait, and as Admission.acquire.
        """
        if not self._admission.must_wait:
            return True
        self._lease = self._acquire(asked)
        waiting = self._queue.wait(self._caller.gone)
        self._made.callback(waiting.close)
        self._waiting = waiting
        self._began = time.monotonic()
        deadline = self._began + seconds
        return all(time.monotonic() < deadline for _ in waiting)

    def submit(self, asked: Request) -> ResponseStream:
        """Hand the request to the engine."""
        admission, caller = self._admission, self._caller
        engine = admission.engine
        lease = self._lease or self._acquire(asked)
        generation = engine.submit(replace(asked, prefix_scope=caller.prefix_scope))
        lease.accepted = True
        stream = self.stream = ResponseStream(
            generation, asked, admission, caller.gone, caller.request_id, since=self._began
        )
        self._made.callback(stream.close)
        self._on_stream(stream)
        return stream

    def late_events(self, start: Callable[[], tuple[ResponseStream, Serializer]]) -> Iterator[bytes]:
        """A stream that begins before the model is loaded: comments on the wait, then the events.

        Args:
            start: calls `submit`; also says who writes the answers.
        """
        try:
            yield from changes(self._waiting, self._admission.ping_s)
            stream, serializer = start()
        except ClientGoneError:
            raise
        except Exception as error:  # as in ResponseStream.events
            self._error = error
            yield error_event(error, self._caller.request_id)
            raise ConnectionAbortedError("the stream ended with an error") from None
        yield from stream.events(serializer)

    @property
    def error(self) -> Exception | None:
        """What a stream ended with."""
        return self._error if self.stream is None else self.stream.error

    def summary(self) -> str:
        """For the log; empty where nothing began."""
        if self.stream is not None:
            return self.stream.summary()
        return "" if self._error is None else f" failed={type(self._error).__name__}"

    def status(self, sent: int) -> int:
        """The status that counts: a stream that ended while it waited for the model was sent as 200."""
        if sent != 200 or self.stream is not None:
            return sent
        return 499 if self._error is None else error_response(self._error, "").status

    def close(self) -> None:
        self._made.close()

    def _acquire(self, asked: Request) -> Lease:
        lease = self._admission.acquire(self._caller.key, asked.answers, others=self._caller.others)
        self._made.callback(lease.release)
        return lease
