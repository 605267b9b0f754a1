"""A server and commands of any version of the program, for attacks by sockets and a shell."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

Result = tuple[bool, str]  # (whether it held, what was seen)
SHORT = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def post(body: object, path: str = "/v1/chat/completions", *headers: str) -> bytes:
    data = json.dumps(body, ensure_ascii=False).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


class Target:
    """A `glm-edge serve` under attack, its lines on stderr, and its folder.

    Args:
        python: has the package.
        options: of `serve`.
        prefix: a shell's commands before it, as `umask 0;`.
    """

    def __init__(self, python: str, folder: Path, *options: str, prefix: str = "") -> None:
        serve = f"{prefix} exec '{python}' -I -m glm_edge serve --port 0 --threads 1 {' '.join(options)}"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(["sh", "-c", serve], stderr=log, env=places(folder), cwd=folder)
        end = time.monotonic() + 90
        while not (found := re.search(r"serving .* at http://127\.0\.0\.1:(\d+)", self.text())):
            if self.popen.poll() is not None or time.monotonic() > end:
                self.popen.kill()
                raise RuntimeError(f"does not start: {self.text()}")
            time.sleep(0.1)
        self.port = int(found[1])

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children()

    def chat(self, text: str, *headers: str, **fields: object) -> tuple[int, float, bytes]:
        """As `ask`, one question with a greedy answer."""
        body = {**SHORT, "temperature": 0, "messages": [{"role": "user", "content": text}], **fields}
        return self.ask(post(body, "/v1/chat/completions", *headers))

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, data: bytes, timeout: float = 60) -> tuple[int, float, bytes]:
        """(status or 0, seconds until the response, everything read until its end or 0.5 s of silence)"""
        begin = time.monotonic()
        with contextlib.suppress(OSError), self.connect(timeout) as sock:
            sock.sendall(data)
            text = sock.recv(65536)
            seconds = time.monotonic() - begin
            sock.settimeout(0.5)
            with contextlib.suppress(OSError):
                while more := sock.recv(65536):
                    text += more
            return int(text[9:12] or 0), seconds, text
        return 0, time.monotonic() - begin, b""

    def running(self) -> float:
        found = re.findall(rb"^glm_edge_(?:running|queue) (\S+)", self.ask(get("/metrics"))[2], re.M)
        return sum(map(float, found))

    def idle_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > end:
                return False
        return True


def places(folder: Path) -> dict[str, str]:
    return {**os.environ, **{f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}}


class Place:
    """Where a row is tried: the Python, and an empty folder."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python, self.folder = python, folder

    @contextmanager
    def serving(self, *options: str, prefix: str = "") -> Iterator[Target]:
        target = Target(self.python, self.folder, *options, prefix=prefix)
        try:
            yield target
        finally:
            target.popen.terminate()
            try:
                target.popen.wait(40)
            except subprocess.TimeoutExpired:
                target.popen.kill()

    def demo(self) -> Path:
        """The demo model as a file, which the first command makes."""
        _, _, said = self.command("chat", "--no-cache", "--prompt", "a", seconds=120)
        for model in self.folder.rglob("*.gguf"):
            return model
        raise RuntimeError(f"no demo model: {said.strip()}")

    def command(self, *arguments: str, prefix: str = "", stdin: str = "", seconds: float = 60) -> tuple[int, str, str]:
        """(exit code or -99 if it did not end, stdout, stderr) of a glm-edge command."""
        shell = ["sh", "-c", f'{prefix} exec "$0" -I -m glm_edge "$@"', self.python, *arguments]
        try:
            done = subprocess.run(
                shell,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                env=places(self.folder),
            )
        except subprocess.TimeoutExpired:
            return -99, "", ""
        return done.returncode, done.stdout, done.stderr
