"""A `glm-edge serve` in a process of its own: started, read, and ended with its child."""

from __future__ import annotations

import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import psutil

from support.server.live_server import BODY, PATIENCE, Wire

GREEDY = {**BODY, "temperature": 0, "max_tokens": 10}


class Server:
    """A server in a child process, and what it writes to stderr."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._early: deque[str] = deque()  # lines before its address: the child, which loads meanwhile, may be sooner
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self._lines.put(line)
        self._lines.put("")

    @cached_property
    def port(self) -> int:
        passed = []
        while line := self._lines.get(timeout=3 * PATIENCE):
            if match := re.search(r"listening at http://[\d.]+:(\d+)", line):
                self._early.extend(passed)
                return int(match[1])
            passed.append(line)
        raise AssertionError(f"it never said where it listens, but: {''.join(passed)}")

    def said(self, pattern: str) -> re.Match[str]:
        """The next line on stderr that has it."""
        while line := self._early.popleft() if self._early else self._lines.get(timeout=3 * PATIENCE):
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"it never said {pattern}")

    def rest(self) -> str:
        """What it says until it is gone, and its child with it."""
        self._reader.join(3 * PATIENCE)
        assert not self._reader.is_alive()
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return "".join(lines)

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
def run(*command: str, **environment: str) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, *command],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
    ) as popen:
        server = Server(popen)
        try:
            assert server.port
            yield server
        finally:
            popen.kill()
            server.rest()
