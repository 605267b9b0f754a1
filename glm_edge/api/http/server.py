"""The HTTP server: waitress's loop and threads around a WSGI app, on sockets that are already bound.

Whoever owns it calls `turn` in one thread until done; starting, signals and draining are in `api/serve.py`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from ...errors import OutOfMemoryError
from ..access.policy import AccessPolicy
from .channel import Channel
from .chunks import MAX_HEADER
from .limits import Deadlines, Limits

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_STACK = 1 << 20  # bytes
_MAKES_ROOM = 32  # connections that are closed at once where others wait
_EXPIRE_S = 0.1  # between two looks at the deadlines of hundreds of connections
_ACCEPTS = 64  # a turn, so that a flood of connections cannot keep the others waiting


class HttpServer:
    """A threaded HTTP server of `app` on `sockets`, which are bound and not yet listening.

    Args:
        policy: asked about a request's headers before its body is kept; the app asks again.
    """

    def __init__(
        self,
        app: WSGIApplication,
        sockets: Sequence[socket.socket],
        *,
        policy: AccessPolicy,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._deadlines = limits.deadlines
        self._most = limits.connections
        self._map: dict[int, Any] = {}
        self._expired = 0.0  # when the deadlines of all connections were looked at
        self._dispatcher = ThreadedTaskDispatcher()
        _start_threads(self._dispatcher, limits.threads)
        adjustments = _adjustments(limits)
        self._listeners = [
            _Listener(app, self._map, sock, self._dispatcher, adjustments, policy, limits.deadlines) for sock in sockets
        ]

    def turn(self, timeout: float = 1.0) -> None:
        """Wait up to `timeout` seconds for something to happen on any connection, and handle it."""
        if any(listener.crowded for listener in self._listeners):
            self._make_room()
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)
        now = time.monotonic()
        if now - self._expired >= _EXPIRE_S:
            self._expired = now
            for channel in self._channels():
                channel.expire(now, self._deadlines)

    def _make_room(self) -> None:
        """Clients wait for a connection: close some that have no request to answer.

        Between two turns only: within one, a new connection could get the closed one's number, and its events.
        """
        now, channels = time.monotonic(), self._channels()
        found = [(key, n) for n, one in enumerate(channels) if (key := one.importance(now)) is not None]
        for _, n in sorted(found)[:_MAKES_ROOM]:
            channels[n].handle_close()
        for listener in self._listeners:
            listener.crowded = len(self._map) >= self._most

    def wake(self) -> None:
        """End a running `turn` soon; from any thread, or a signal handler."""
        self._listeners[0].pull_trigger()

    def stop_listening(self) -> None:
        """Refuse new connections; the others go on."""
        for listener in self._listeners:
            wasyncore.dispatcher.close(listener)

    @property
    def busy(self) -> bool:
        """Whether any answer is on its way."""
        return any(channel.busy for channel in self._channels())

    @property
    def connections(self) -> int:
        return len(self._channels())

    def close(self) -> None:
        """Close every connection. Threads that still serve are left behind; they end with the process."""
        self._dispatcher.set_thread_count(0)
        for listener in self._listeners:
            listener.end()
        for channel in self._channels():
            channel.handle_close()  # also wakes a thread that waits to write
        wasyncore.close_all(self._map, ignore_all=True)

    def _channels(self) -> list[Channel]:
        return [entry for entry in list(self._map.values()) if isinstance(entry, Channel)]


def _start_threads(dispatcher: ThreadedTaskDispatcher, n: int) -> None:
    """With small stacks: they run nothing deep, and 8 MiB each are much of a small device's addresses."""
    before = threading.stack_size(_STACK)
    try:
        dispatcher.set_thread_count(n)
    except RuntimeError:
        raise OutOfMemoryError(
            f"the system has no memory for the {n} threads of the server; fewer --slots or a shorter --queue need less"
        ) from None
    finally:
        threading.stack_size(before)


class _Listener(TcpWSGIServer):
    """One listening socket."""

    channel_class = Channel

    def __init__(
        self,
        app: WSGIApplication,
        map: Any,
        sock: Any,
        dispatcher: Any,
        adj: Any,
        policy: AccessPolicy,
        deadlines: Deadlines,
    ) -> None:
        self.policy = policy
        self.deadlines = deadlines
        self.crowded = False  # a client waits, and there were no connections left
        self._connections = map
        self._ended = False
        self._trigger_lock = threading.RLock()  # a signal may come while its own thread has it
        info = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(app, map, True, sock, dispatcher, adj, info, bind_socket=False)

    def readable(self) -> bool:
        return bool(self.accepting and not self.crowded)

    def handle_accept(self) -> None:
        """As many connections as wait; waitress takes one a turn, and a turn costs more the more there are."""
        for _ in range(_ACCEPTS):
            before = len(self._connections)
            self.crowded = before >= self.adj.connection_limit
            if self.crowded:
                return
            super().handle_accept()
            if len(self._connections) == before:
                return

    def pull_trigger(self) -> None:
        """Wake the loop. Threads do so to the last, when the pipe is closed and its number perhaps another file's."""
        with self._trigger_lock:
            if not self._ended:
                super().pull_trigger()

    def end(self) -> None:
        """The loop is not woken any more: its pipe is about to be closed."""
        with self._trigger_lock:
            self._ended = True

    def set_reuse_addr(self) -> None:
        """Whoever bound the socket has decided."""

    def maintenance(self, now: int) -> None:
        """Channel.expire does it, on a clock that does not jump."""


def _adjustments(limits: Limits) -> Adjustments:
    return Adjustments(
        threads=limits.threads,
        connection_limit=limits.connections,
        # waitress refuses a body of exactly its limit
        max_request_body_size=limits.body + 1,
        max_request_header_size=MAX_HEADER,
        # never to a temporary file: bodies and answers are somebody's words
        inbuf_overflow=limits.body * 2,
        outbuf_overflow=limits.body * 2,
        outbuf_high_watermark=256 * 1024,
        # go on reading while a request runs: the only way to notice that the client has left
        channel_request_lookahead=limits.ahead,
        # a client that leaves is no error
        log_socket_errors=False,
        ident="glm-edge",
        asyncore_use_poll=True,
    )
