"""The real HTTP server in a thread, and a client that writes and reads bytes: for what only shows on the wire."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.admission import Admission
from glm_edge.api.app import create_app
from glm_edge.api.http.limits import Deadlines, Limits
from glm_edge.api.http.server import HttpServer
from glm_edge.worker import Worker
from support.engines.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "你好"}]}
PATIENCE = 60.0  # seconds that a test waits for what must come; only a failing test waits so long


class LiveServer:
    """`with LiveServer(engine) as server:` serves on a free port of the loopback; `options` are Admission's.

    With `loading` there is no engine until a test calls `server.admission.ready(engine)`.
    """

    def __init__(
        self,
        engine: FakeEngine | Worker,
        *,
        loading: bool = False,
        policy: AccessPolicy | None = None,
        body: int = 2**20,
        deadlines: Deadlines | None = None,
        connections: int = 1500,
        **options: Any,
    ) -> None:
        self.engine: Any = engine
        self.admission = Admission(None if loading else engine, **options)
        policy = policy or AccessPolicy()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        limits = Limits(threads=40, connections=connections, body=body, deadlines=deadlines or Deadlines())
        self.server = HttpServer(
            create_app(self.admission, policy=policy, max_body=body), [listener], policy=policy, limits=limits
        )
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        while not self._done.is_set():
            self.server.turn(0.05)

    def __enter__(self) -> LiveServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.admission.abort()
        self.engine.close()
        self._done.set()
        self.server.wake()
        self._thread.join()
        self.server.close()

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))

    def exchange(self, data: bytes) -> HttpReply:
        """Send bytes on a connection of their own; the first response."""
        with self.connect() as wire:
            wire.send(data)
            return wire.reply()


@dataclass
class HttpReply:
    """A response as it came; `complete` is whether its end was marked as HTTP wants."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return None if self.json["error"]["code"] is None else str(self.json["error"]["code"])


class Wire:
    """A connection, raw."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._file = sock.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        return self._file.readline()

    def head(self) -> HttpReply:
        """The status line and the headers."""
        status = self.line().split()
        if not status:
            raise ConnectionError("the server closed the connection without a response")
        headers = {}
        while line := self.line().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return HttpReply(int(status[1]), headers, b"", complete=True)

    def reply(self) -> HttpReply:
        reply = self.head()
        if reply.headers.get("transfer-encoding") == "chunked":
            reply.complete = False
            while (chunk := self.chunk()) is not None:
                reply.body += chunk
                reply.complete = not chunk
                if reply.complete:
                    break
        elif "content-length" in reply.headers:
            reply.body = self._file.read(int(reply.headers["content-length"]))
        else:
            reply.body = self._file.read()
        return reply

    def chunk(self) -> bytes | None:
        """One chunk of a chunked response; b"" is its end, None a connection that closed before it."""
        size = self.line().strip()
        if not size:
            return None
        data = self._file.read(int(size, 16))
        self.line()
        return data

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection; waits for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def post(body: Any, *headers: str, path: str = CHAT, version: str = "1.1") -> bytes:
    """The bytes of a POST; `body` as JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextmanager
def file_limit(wanted: int) -> Iterator[int]:
    """As many open files as wanted, if the system lets us; how many there may be."""
    if os.name != "posix":
        yield 900
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield max(soft, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
