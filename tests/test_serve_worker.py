"""`glm-edge serve` with a real model whose process is killed under it (CASES O8, D6, D7)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from live_server import BODY, PATIENCE, Wire, eventually, get, post

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

GREEDY = {**BODY, "temperature": 0, "max_tokens": 10}
ENDLESS = {**BODY, "temperature": 0, "stream": True}


class Server:
    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.port = int(self.said(r"listening at http://127\.0\.0\.1:(\d+)")[1])

    def said(self, pattern: str) -> re.Match[str]:
        """The next line on stderr that has it."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"it never said {pattern}")

    @property
    def child(self) -> psutil.Process:
        (child,) = psutil.Process(self.popen.pid).children()
        return child

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))

    def ask(self, data: bytes) -> tuple[int, dict[str, str], str]:
        with self.connect() as wire:
            wire.send(data)
            reply = wire.reply()
        return reply.status, reply.headers, reply.body.decode()


@contextmanager
def serving(model: Path) -> Iterator[Server]:
    options = ["--model", str(model), "--port", "0", "--threads", "1", "--no-cache"]
    command = [sys.executable, "-m", "glm_edge", "serve", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as popen:
        try:
            yield Server(popen)
        finally:
            popen.kill()


def test_o8_killed_during_four_streams(tiny_f32: Path) -> None:
    with serving(tiny_f32) as server:
        server.said("serving")
        parent = server.popen.pid
        before = server.ask(post(GREEDY))
        assert before[0] == 200
        streams = [server.connect() for _ in range(4)]
        for wire in streams:
            wire.send(post(ENDLESS))
            assert wire.head().status == 200
            assert wire.chunk()
        server.child.kill()
        for wire in streams:
            rest = b""
            while chunk := wire.chunk():
                rest += chunk
            assert b'"error"' in rest
            assert b"[DONE]" not in rest
            wire.__exit__()
        status, headers, body = server.ask(post(GREEDY))
        assert (status, "model_loading" in body) == (503, True)
        assert int(headers["retry-after"]) > 0
        assert server.ask(get("/health"))[0] == 503
        assert eventually(lambda: server.ask(get("/health"))[0] == 200, 60)
        after = server.ask(post(GREEDY))
        assert after[0] == 200
        content = r'"content": ?"[^"]*"'
        assert re.findall(content, after[2]) == re.findall(content, before[2])
        assert server.popen.poll() is None
        assert server.popen.pid == parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["d7", "d6"])
def test_told_to_go_while_it_loads_nothing_stays(tiny_f32: Path, number: signal.Signals) -> None:
    with serving(tiny_f32) as server:
        assert eventually(lambda: bool(psutil.Process(server.popen.pid).children()))
        child = server.child
        start = time.monotonic()
        server.popen.send_signal(number)
        assert server.popen.wait(PATIENCE) == (0 if number == signal.SIGTERM else -number)
        assert time.monotonic() - start < 5
        assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
