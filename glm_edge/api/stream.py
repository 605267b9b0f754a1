"""Streams: follow one generation to its end, for a client that may leave and a server that may stop.

Waits for chunks, notices a client that left, sends comments to one that waits. Free of Flask: it reads a Generation and
asks two questions, whether the client is gone and whether the server is ending. A serializer writes the events.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator

from ..errors import EngineClosedError, EngineError, OverloadedError
from ..generation import Generation, Progress
from ..types import Chunk, FinishReason, Request, Stats, TokenLogprob
from .admission import Admission
from .contract.answers.events import PING, comment, event
from .contract.answers.figures import total
from .contract.answers.serializer import FinishedAnswer, Serializer
from .contract.errors import error_response

POLL_S = 0.2  # how soon a client that left, or a server that ends, is noticed
_POLLS_PER_S = 256  # of all requests in the engine's queue, where hundreds may wait
FIRST_EVENT_S = 0.8  # a stream begins within a second, so that nobody takes a long prefill for a hang
COMMENT_S = 0.5  # shortest time between two comments on a request's progress


class ClientGoneError(ConnectionAbortedError):
    """The client has closed the connection; there is nobody to answer."""


def check_wanted(admission: Admission, client_gone: Callable[[], bool]) -> None:
    """Raise where nobody waits for an answer any more: its client has left, or the server ends it."""
    if client_gone():
        raise ClientGoneError("the client has closed the connection")
    if admission.aborted:
        raise EngineClosedError("the server is shutting down")


def error_event(error: Exception, request_id: str) -> bytes:
    """The event that ends a stream with an error."""
    return event(error_response(error, request_id).body)


def changes(items: Iterator[Progress | None], ping_s: float) -> Iterator[bytes]:
    """Comments on a request's progress where it changes, and where nothing was sent for `ping_s` seconds."""
    last, sent = b"", -math.inf
    for progress in items:
        silence = time.monotonic() - sent
        if silence < COMMENT_S:
            continue
        line = PING if progress is None else comment(progress)
        if line not in (last, PING) or silence >= ping_s:
            yield line
            last, sent = line, time.monotonic()


class ResponseStream:
    """The way of one request's answers from the engine to the client.

    Args:
        client_gone: whether the client has closed the connection.
        request_id: for the error a stream may end with.
        since: when the request began to wait, by the monotonic clock; now by default.
    """

    def __init__(
        self,
        generation: Generation[Chunk],
        request: Request,
        admission: Admission,
        client_gone: Callable[[], bool],
        request_id: str,
        *,
        since: float | None = None,
    ) -> None:
        self._generation = generation
        self._admission = admission
        self._client_gone = client_gone
        self._request_id = request_id
        self._n = request.answers
        self._prompts = max(1, len(request.prompts))
        self._submitted = time.monotonic() if since is None else since
        self._first: Chunk | None = None  # read ahead by `begin`
        self._ended: dict[int, Stats] = {}  # by the index of the answer
        self._answering = False  # the head of a stream is sent: nobody can ask another server any more
        self.error: Exception | None = None  # what a stream ended with

    def whole(self) -> list[FinishedAnswer]:
        """Wait for the end of all answers. Raises the engine's error, or ClientGoneError."""
        texts = [""] * self._n
        reasons: list[FinishReason] = ["stop"] * self._n
        logprobs: list[list[TokenLogprob]] = [[] for _ in texts]
        while not self.complete:
            chunk = self._next(self._poll_s)
            if chunk is not None:
                texts[chunk.index] += chunk.text
                logprobs[chunk.index] += chunk.logprobs
                reasons[chunk.index] = chunk.finish_reason or "stop"
        return [FinishedAnswer(texts[i], reasons[i], self._ended[i], logprobs[i]) for i in range(self._n)]

    def begin(self) -> None:
        """Wait for the first chunk, FIRST_EVENT_S at most.

        Raises the engine's error or ClientGoneError; after it, errors are events of the stream.
        """
        deadline = time.monotonic() + FIRST_EVENT_S
        while self._first is None and (left := deadline - time.monotonic()) > 0:
            self._first = self._next(min(POLL_S, left))

    def events(self, serializer: Serializer) -> Iterator[bytes]:
        """The stream, from the first event to the mark of its end. Call after `begin`.

        Raises ConnectionAbortedError after an error event: the response must not look complete.
        """
        self._answering = True
        try:
            for index in range(self._n):
                if first := serializer.role_event(index):
                    yield first
            yield from self._chunks(serializer)
        except ClientGoneError:
            raise
        except Exception as error:  # a bug as well: waitress would log its text, which may quote a conversation
            self.error = error
            yield error_event(error, self._request_id)
            raise ConnectionAbortedError("the stream ended with an error") from None
        if serializer.done:
            yield serializer.done

    def _chunks(self, serializer: Serializer) -> Iterator[bytes]:
        chunk, self._first = self._first, None
        if chunk is None:
            chunk = yield from self._until_first()
        sent = time.monotonic()
        while True:
            line = b""
            if chunk is not None and (chunk.text or chunk.logprobs):
                line = serializer.text_event(chunk.index, chunk.text, chunk.logprobs)
            if line:  # none where it may be the beginning of a call
                sent = time.monotonic()
                yield line
            if chunk is not None and chunk.finish_reason is not None:
                stats = self.total if self.complete else None
                yield serializer.finish_event(chunk.index, chunk.finish_reason, stats)
            if self.complete:
                if serializer.head.include_usage:
                    yield serializer.usage_event(self.total)
                return
            if time.monotonic() - sent >= self._admission.ping_s:
                sent = time.monotonic()
                yield PING
            chunk = self._next(POLL_S)

    def _until_first(self) -> Generator[bytes, None, Chunk]:
        """Comments on the progress, where it changes, until the first chunk comes, which is returned."""
        found: list[Chunk] = []

        def progress() -> Iterator[Progress | None]:
            while (chunk := self._next(self._poll_s)) is None:
                yield self._generation.progress
            found.append(chunk)

        yield from changes(progress(), self._admission.ping_s)
        return found[0]

    def _check_wait(self) -> None:
        """Reject a request whose wait, estimated or past, exceeds `max_wait_s`."""
        limit = self._admission.max_wait_s
        waited = time.monotonic() - self._submitted
        if FIRST_EVENT_S < waited <= limit:
            return  # it was let in; estimates that rise later do not end it
        progress = self._generation.progress
        ahead = (progress and progress.wait_s) or 0.0
        if max(waited, ahead) > limit:
            late = f"waited {waited:.0f}" if waited > limit else f"would wait {ahead:.0f}"
            raise OverloadedError(
                f"the request {late} s in the queue, and {limit:g} s are the most; try again later",
                retry_after=ahead - limit if waited <= limit else ahead,
            )

    @property
    def _poll_s(self) -> float:
        """How long to wait for a chunk: longer in the queue, the more requests there are."""
        return max(POLL_S, self._admission.requests / _POLLS_PER_S if self.waiting else 0.0)

    def _next(self, timeout: float) -> Chunk | None:
        """The next chunk; None when none came in time."""
        check_wanted(self._admission, self._client_gone)
        if self._admission.draining and not self._generation.started and not self._answering:
            raise EngineClosedError("the server is shutting down")
        if not self._generation.started:
            self._check_wait()
        try:
            chunk = self._generation.get(timeout)
        except TimeoutError:
            return None
        if chunk is None or (chunk.finish_reason is None) != (chunk.stats is None):
            raise EngineError("the engine ended an answer without its reason and counts")
        if chunk.finish_reason == "cancelled":
            raise EngineClosedError("the answer was cancelled")
        if chunk.stats is not None:
            self._ended[chunk.index] = chunk.stats
        return chunk

    @property
    def complete(self) -> bool:
        return len(self._ended) == self._n

    @property
    def total(self) -> Stats:
        """The figures of all answers, once complete."""
        return total([self._ended[index] for index in range(self._n)], self._prompts)

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each answer that has ended and has more than one."""
        return [stats.decode_rate for stats in self._ended.values() if stats.decode_rate > 0]

    @property
    def waiting(self) -> bool:
        """Whether the request is still in the engine's queue."""
        return not self._generation.started

    def close(self) -> None:
        """Nobody reads any more: cancel what has not ended."""
        if not self.complete:
            self._generation.cancel()

    def summary(self) -> str:
        """For the log: counts, or why there are none."""
        if self.error is not None:
            return f" failed={type(self.error).__name__}"
        if not self.complete:
            return " unfinished"
        stats = self.total
        return f" prompt={stats.prompt_tokens} cached={stats.cached_tokens} completion={stats.completion_tokens}"
