"""Figures of the running server in Prometheus's text format, for GET /metrics.

Counted when a request is over, from the figures that its answer carries, so nothing is counted token by token. Labels
come from lists of ours, never from what a client sends. Every server has a registry of its own.
"""

from __future__ import annotations

import threading

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .stream import ResponseStream

CONTENT_TYPE = CONTENT_TYPE_LATEST

# seconds; a token of a 6B model takes 0.05 to 2 on the machines that this is for, a long prompt minutes
_FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_NEXT_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)


class Metrics:
    """One server's figures; safe to use from any thread."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._live: set[ResponseStream] = set()
        self._requests = Counter(
            "glm_edge_requests", "Requests that are over, by how they ended.", ("path", "outcome"), registry=registry
        )
        self._tokens = Counter(
            "glm_edge_tokens",
            "Tokens of whole answers: of prompts, those of them cached, of answers.",
            ("kind",),
            registry=registry,
        )
        self._hits = Counter(
            "glm_edge_cache_hits", "Answers with a part of their prompt out of the cache.", registry=registry
        )
        self._first = Histogram(
            "glm_edge_first_token_seconds", "From submit to the first token.", buckets=_FIRST_TOKEN, registry=registry
        )
        self._next = Histogram(
            "glm_edge_next_token_seconds",
            "Between two tokens, the mean of each answer.",
            buckets=_NEXT_TOKEN,
            registry=registry,
        )
        for name, help_text, figure in (
            ("glm_edge_running", "Requests that the engine works on.", lambda: self._count(waiting=False)),
            ("glm_edge_queue", "Requests that wait for the engine.", lambda: self._count(waiting=True)),
            ("glm_edge_memory_bytes", "Resident memory of the server and its children.", _memory),
        ):
            Gauge(name, help_text, registry=registry).set_function(figure)

    def begin(self, stream: ResponseStream) -> None:
        """A request was submitted to the engine."""
        with self._lock:
            self._live.add(stream)

    def end(self, path: str, status: int, stream: ResponseStream | None) -> None:
        """A request is over.

        Args:
            path: the route's, not the client's.
            status: the response's; a stream that failed has 200.
        """
        with self._lock:
            self._live = {other for other in self._live if other is not stream}
        self._requests.labels(path, outcome(status, stream)).inc()
        if stream is None or not stream.complete:
            return
        stats = stream.total
        self._tokens.labels("prompt").inc(stats.prompt_tokens)
        self._tokens.labels("cached").inc(stats.cached_tokens)
        self._tokens.labels("completion").inc(stats.completion_tokens)
        self._hits.inc(stats.cached_tokens > 0)
        self._first.observe(stats.queue_s + stats.prefill_s)
        for rate in stream.rates:
            self._next.observe(1 / rate)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self._registry)

    def _count(self, *, waiting: bool) -> float:
        with self._lock:
            return sum(stream.waiting == waiting for stream in self._live)


def outcome(status: int, stream: ResponseStream | None) -> str:
    """How a request ended, in one word."""
    if status == 499 or (status == 200 and stream is not None and not stream.complete and stream.error is None):
        return "cancelled"
    if status in (429, 503):
        return "unavailable"
    if status >= 500 or (stream is not None and stream.error is not None):
        return "failed"
    return "refused" if status >= 400 else "ok"


def _memory() -> float:
    """Bytes. A child that ends meanwhile has none."""
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
