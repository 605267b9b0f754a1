"""waitress's connection, with deadlines, errors in our JSON, and an end that the client can read.

Deadlines run from the start of what they limit and on the monotonic clock: a client that drips bytes gains nothing by
it, and a device whose clock jumps loses nothing. Parsing is in `parser.py`, the loop in `server.py`.
"""

from __future__ import annotations

import http
import logging
import socket
import time
import uuid
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error, RequestEntityTooLarge, RequestHeaderFieldsTooLarge, ServerNotImplemented

from ...errors import RequestError
from ..contract import strict_json
from ..contract.errors import error_response
from .chunks import MAX_HEADER
from .limits import Deadlines
from .parser import StrictParser

_log = logging.getLogger("glm_edge.http")

HOLD_BACK = "glm_edge.hold_back"  # in the environ: call it with seconds, and the answer is sent so much later

_FAIR_S = 1.0  # until then, a client that owes a request is merely new


class ExactPathTask(WSGITask):
    """The answer of the app. The app sees the path as it was sent; waitress alone would drop its leading slashes."""

    channel: Any
    request: Any

    def get_environment(self) -> Any:
        environ = super().get_environment()
        environ["PATH_INFO"] = self.request.path
        peer, proxies = self.channel.addr[0], self.channel.server.policy.proxies
        environ["REMOTE_ADDR"] = proxies.client(peer, environ)
        environ["wsgi.url_scheme"] = proxies.scheme(peer, environ, environ["wsgi.url_scheme"])
        environ[HOLD_BACK] = self.channel.hold_back
        return environ


class JsonErrorTask(ErrorTask):
    """The answer to a request that the parser or the server gave up on. The connection is closed after it."""

    channel: Any
    request: Any
    response_headers: Any

    def execute(self) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        failed = error_response(self._error(), request_id)
        body = strict_json.dumps(failed.body).encode()
        self.status = f"{failed.status} {http.HTTPStatus(failed.status).phrase}"
        self.response_headers += [("Content-Type", "application/json"), ("x-request-id", request_id), *failed.headers]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.refused = True
        client = self.channel.server.policy.proxies.client(self.channel.addr[0], self.request.wsgi_headers)
        _log.info("%s %s %s %d %s", client, *self._asked(), failed.status, request_id)
        self.write(b"" if self.request.command == "HEAD" else body)

    def _asked(self) -> tuple[str, str]:
        """Method and path, as far as they were read; waitress makes them up where the headers are too large."""
        if isinstance(self.request.error, RequestHeaderFieldsTooLarge):
            return "-", "-"
        return self.request.command or "-", self.request.path[:200] or "-"

    def _error(self) -> Exception:
        """In our words: waitress's quote the request, which may hold a key."""
        error: Error = self.request.error
        if isinstance(error, RequestEntityTooLarge):
            limit = self.channel.adj.max_request_body_size - 1
            too_large = f"the body is larger than the {limit} bytes that are read"
            return self.request.refusal or RequestError(too_large, code="request_too_large")
        if isinstance(error, RequestHeaderFieldsTooLarge):
            return RequestError(f"the headers are larger than {MAX_HEADER} bytes", code="headers_too_large")
        if isinstance(error, ServerNotImplemented):
            return RequestError("of transfer encodings only chunked is read", code="not_implemented")
        if error.code == 400:
            return RequestError("the request is not well-formed HTTP/1.1")
        return RuntimeError("the server failed outside of the app")


class Channel(HTTPChannel):
    """One connection of a client."""

    task_class = ExactPathTask
    error_task_class = JsonErrorTask
    server: Any
    parser_class: Any
    socket: Any
    refused = False  # an error was sent while the client may still be sending

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self._reading = True  # a request has begun, or the first one is waited for
        self._since = self._sent = time.monotonic()  # of `_reading`; of the last byte that the client took
        self._stuck: float | None = None  # since when bytes wait that the client does not take
        self._answers = 0  # begun; counted in the threads that serve
        self._counted = 0  # which answer the next figure is of
        self._delivery = 0.0  # seconds in which bytes have waited since that answer began
        self._expired = self._since  # when `expire` was called last
        self._ahead = 0  # bytes read since the running request
        self._linger_until: float | None = None
        self._held_until = 0.0
        super().__init__(server, sock, addr, adj, map)
        self.parser_class = partial(StrictParser, server.policy, addr[0])

    def expire(self, now: float, deadlines: Deadlines) -> None:
        """Close the connection if the client has used up its time. Called from the loop's thread, now and then."""
        if not self.total_outbufs_len:
            self._stuck = None
        if self._counted != self._answers:
            self._counted, self._delivery = self._answers, 0.0
        if self._linger_until is not None:
            self.will_close = self.will_close or now > self._linger_until
        elif self.total_outbufs_len and not self._held():
            self._delivery += now - self._expired
            if self._stuck is None or self._sent >= self._stuck:
                self._stuck = now
            if now - self._stuck > deadlines.stalled or self._delivery > deadlines.delivery:
                self.handle_close()  # also wakes a thread that waits to write
        elif not self.requests:
            idle = max(self._since, self._sent)
            late = now - self._since > deadlines.read if self._reading else now - idle > deadlines.idle
            self.will_close = self.will_close or late
        self._expired = now

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or its answer not yet taken."""
        return bool(self.requests or self.total_outbufs_len)

    def importance(self, now: float) -> tuple[bool, float] | None:
        """A key to sort connections by; the least is closed first, where others wait for a connection.

        First come those that owe a request, then idle ones, the oldest of each first. None where a request is being
        answered: that connection stays.
        """
        owes = self._reading and now - self._since > _FAIR_S
        return None if self.busy else (not owes, max(self._since, self._sent))

    def received(self, data: bytes) -> bool:
        if any(request.error for request in list(self.requests)):
            return False  # what follows it is not read as anything
        if not self._reading:
            self._since = time.monotonic()
        self._ahead = self._ahead + len(data) if self.requests else 0
        result = super().received(data)
        self._reading = self.request is not None
        if len(self.requests) > self.adj.channel_request_lookahead or self._ahead > 2 * self.adj.max_request_body_size:
            self.handle_close()  # only to stop reading would not do: a client that leaves would not be noticed
        return result

    def service(self) -> None:
        """Answer the next request, in a thread of the server."""
        self._answers += 1
        super().service()

    def hold_back(self, seconds: float) -> None:
        """Send nothing for some seconds, about. No thread waits meanwhile, and nothing more is read."""
        self._held_until = time.monotonic() + seconds

    def _held(self) -> bool:
        return time.monotonic() < self._held_until

    def writable(self) -> bool:
        return not self._held() and bool(super().writable())

    def _flush_some(self, do_close: bool = True) -> bool:
        return not self._held() and bool(super()._flush_some(do_close))  # type: ignore[misc]

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = super().send(data, do_close)
        if sent:
            self._sent = time.monotonic()
        return sent

    # An answer that does not wait for the end of its request. Closing a socket with unread bytes resets the
    # connection, and the client's system then drops the answer it has not read: so send the end, and read on a while.

    def handle_write(self) -> None:
        if not (self.refused and self.close_when_flushed) or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some)  # type: ignore[attr-defined]
        if not self.total_outbufs_len and not self.will_close:
            self.close_when_flushed = False
            self._linger_until = time.monotonic() + self.server.deadlines.linger
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.will_close = True

    def readable(self) -> bool:
        return (self._linger_until is not None and not self.will_close) or super().readable()

    def handle_read(self) -> None:
        if self._linger_until is None:
            super().handle_read()
            return
        try:
            self.recv(65536)  # closes at the end of the stream
        except OSError:
            self.handle_close()
