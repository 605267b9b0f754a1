"""A client that sends requests of every kind, good, bad and broken off, as its seed draws them."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHAT = "/v1/chat/completions"
KEYS = ("soak-key-one", "soak-key-two")
WORDS = ("你好", "讲一个故事", "北京在哪里", "hello", "写一首诗", "1 加 1 等于几", "谢谢")
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "point",
        "schema": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "boolean"}},
            "required": ["x", "y"],
            "additionalProperties": False,
        },
    },
}
BAD_BODIES: tuple[bytes, ...] = (
    b"{",
    b"[" * 5000,
    b"\xff\xfe",
    b'{"messages": []}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": 99}',
    b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": 1, "05": 1}}',
    json.dumps({"messages": [{"role": "user", "content": "\n" * 300_000}]}).encode(),
)


class MixedClient:
    """A user of the server: sends requests of every kind, as its seed draws them, and counts how they end.

    Args:
        port: of the server, on this machine.
        draw: what it does next.
        ends: (kind, outcome) of every request, shared by all clients.
    """

    def __init__(self, port: int, draw: random.Random, ends: Counter[str]) -> None:
        self._port, self._draw, self._ends = port, draw, ends

    def run(self, stop: threading.Event) -> None:
        kinds: list[Callable[[], str]] = [self.whole, self.stream, self.three, self.schema, self.completion]
        kinds += [self.tokenize, self.cancel, self.cancel, self.vanish, self.bad, self.garbage]
        while not stop.is_set():
            kind = self._draw.choice(kinds)
            try:
                outcome = kind()
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            self._ends[f"{kind.__name__} {outcome}"] += 1
            stop.wait(self._draw.uniform(0, 0.2))

    def whole(self) -> str:
        return self._read(CHAT, self._chat())

    def stream(self) -> str:
        return self._read(CHAT, self._chat(stream=True))

    def three(self) -> str:
        return self._read(CHAT, self._chat(n=3, stream=self._draw.random() < 0.5))

    def schema(self) -> str:
        return self._read(CHAT, self._chat(response_format=SCHEMA))

    def completion(self) -> str:
        return self._read("/v1/completions", {"prompt": self._text(), "max_tokens": 24})

    def tokenize(self) -> str:
        return self._read("/v1/tokenize", {"text": self._text() * self._draw.choice([1, 100, 3000])})

    def bad(self) -> str:
        return self._read(CHAT, self._draw.choice(BAD_BODIES))

    def cancel(self) -> str:
        """Read a part of a stream and leave."""
        with self._asked(CHAT, self._chat(stream=True, max_tokens=400)) as connection:
            reply = connection.getresponse()
            end = time.monotonic() + self._draw.uniform(0, 2)
            while time.monotonic() < end and reply.read1(300):
                pass
            return str(reply.status)

    def vanish(self) -> str:
        """Leave without a look at the answer, after a while or at once."""
        with self._asked(CHAT, self._chat(n=self._draw.choice([1, 3]), max_tokens=400)):
            time.sleep(self._draw.choice([0, 0, 0.1, 1]))  # the client's patience
        return "left"

    def garbage(self) -> str:
        """Bytes that are no request, or half of one."""
        with self._asked(CHAT, b"") as connection:
            connection.sock.sendall(self._draw.choice([self._draw.randbytes(500), b"GET / HTTP/1.1\r\nX", b"\n" * 99]))
        return "left"

    def _text(self) -> str:
        draw = self._draw
        return draw.choice(WORDS) * draw.choice([1, 1, 5, 60]) + (
            str(draw.randrange(100)) if draw.random() < 0.7 else ""
        )

    def _chat(self, **fields: Any) -> dict[str, Any]:
        message = {"role": "user", "content": self._text()}
        return {"messages": [message], "max_tokens": self._draw.choice([1, 8, 40, 120]), **fields}

    @contextmanager
    def _asked(self, path: str, body: dict[str, Any] | bytes) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        headers = {"Authorization": f"Bearer {self._draw.choice(KEYS)}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), headers)
            yield connection
        finally:
            connection.close()

    def _read(self, path: str, body: dict[str, Any] | bytes) -> str:
        with self._asked(path, body) as connection:
            reply = connection.getresponse()
            text = reply.read()
            return f"{reply.status}{' cut' if b'server_error' in text and reply.status == 200 else ''}"
