"""A server process from start to end: loading, draining, a second signal. With the engine in it, and with the engine in
a child process, which never stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.paths import SUPPORT
from support.server.live_server import BODY, PATIENCE, Wire, eventually, get, post

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

STREAM = post({**BODY, "stream": True})
WHOLE = post(BODY)
LONG_GRACE = ("--grace", "3600")  # what ends before it has not waited for it


@pytest.fixture(params=[(), ("--worker",)], ids=["in-process", "worker"])
def engine_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Whether the engine is in a process of its own, as arguments of serve_fake_engine.py."""
    return tuple(request.param)


class ServerProcess:
    """serve_fake_engine.py, running; `lines` is what it has said on stderr so far."""

    def __init__(self, *arguments: str) -> None:
        script = SUPPORT / "server" / "serve_fake_engine.py"
        self.popen = subprocess.Popen(
            [sys.executable, str(script), *arguments], stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: re.search(pattern, "".join(self.lines)), PATIENCE), self.lines
        match = re.search(pattern, "".join(self.lines))
        assert match
        return match

    @property
    def port(self) -> int:
        """Of a server that serves, or one that will be loading for ever."""
        what = "listening" if "loading" in self.popen.args else "serving chatglm2-6b"  # type: ignore[operator]
        return int(self.wait_for(what + r" at http://127\.0\.0\.1:(\d+)")[1])

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))

    def metric(self, name: str) -> float:
        """A figure of GET /metrics."""
        with self.connect() as wire:
            wire.send(get("/metrics"))
            match = re.search(rf"^{name} (\S+)$", wire.reply().body.decode(), re.MULTILINE)
        assert match, name
        return float(match[1])

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def exit_code(self) -> int:
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive()  # a child that stayed would hold stderr open
        return code


@contextmanager
def serving(*arguments: str) -> Iterator[ServerProcess]:
    process = ServerProcess(*arguments)
    try:
        yield process
    finally:
        process.popen.kill()
        process.exit_code()
        assert process.popen.stderr is not None
        process.popen.stderr.close()


@pytest.mark.case("D1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_and_frees_its_port(number: int, engine_options: tuple[str, ...]) -> None:
    with serving("quick", *LONG_GRACE, *engine_options) as process, process.connect() as idle:
        port = process.port
        idle.send(get("/health"))
        assert idle.reply().json == {"status": "ok"}
        process.signal(number)
        assert process.exit_code() == 0
        assert idle.closed
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "Traceback" not in "".join(process.lines)


@pytest.mark.case("D2")
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_an_answer_shorter_than_the_grace_is_completed(data: bytes, engine_options: tuple[str, ...]) -> None:
    with serving("second", *engine_options) as process, process.connect() as running, process.connect() as other:
        other.send(get("/health"))
        assert other.reply().status == 200
        running.send(data)
        if data is STREAM:
            running.head()
            running.chunk()
        else:
            assert eventually(lambda: process.metric("glm_edge_running") == 1)
        process.signal()
        process.wait_for("stopping when the running answers end")
        other.send(get("/health"))
        health = other.reply()
        assert (health.status, health.json) == (503, {"status": "shutting_down"})
        other.send(WHOLE)
        refused = other.reply()
        assert (refused.status, refused.code) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        if data is STREAM:
            rest = b""
            while chunk := running.chunk():
                rest += chunk
            assert chunk == b""
            assert rest.endswith(b"data: [DONE]\n\n")
        else:
            assert running.reply().json["choices"][0]["message"]["content"] == "ab"
        assert process.exit_code() == 0


@pytest.mark.case("D2")
def test_new_connections_are_refused_while_the_server_drains(engine_options: tuple[str, ...]) -> None:
    with serving("second", *engine_options) as process, process.connect() as running:
        running.send(STREAM)
        running.head()
        port = process.port
        process.signal()
        process.wait_for("stopping")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        assert process.exit_code() == 0


@pytest.mark.case("D3")
@pytest.mark.parametrize("scenario", ["endless", "stuck"])
def test_an_answer_longer_than_the_grace_ends_with_an_error(scenario: str, engine_options: tuple[str, ...]) -> None:
    with serving(scenario, "--grace", "0.5", *engine_options) as process, process.connect() as running:
        running.send(STREAM)
        assert running.head().status == 200
        process.signal()
        events = b""
        while chunk := running.chunk():
            events += chunk
        assert chunk is None  # closed without the end that HTTP marks
        assert '"shutting_down"' in events.decode().split("\n\n")[-2]
        assert b"[DONE]" not in events
        assert process.exit_code() == 0


@pytest.mark.case("D4")
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_a_request_in_the_queue_is_turned_away_at_once(data: bytes, engine_options: tuple[str, ...]) -> None:
    with serving("one-slot", *engine_options) as process, process.connect() as running, process.connect() as queued:
        running.send(WHOLE)
        assert eventually(lambda: process.metric("glm_edge_running") == 1)
        queued.send(data)
        assert eventually(lambda: process.metric("glm_edge_queue") == 1)
        process.signal()
        reply = queued.reply()
        assert (reply.status, reply.code) == (503, "shutting_down")
        assert running.reply().status == 200
        assert process.exit_code() == 0


@pytest.mark.case("D5")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_the_process_at_once(number: int, code: int, engine_options: tuple[str, ...]) -> None:
    with serving("stuck", *engine_options) as process, process.connect() as running:
        running.send(STREAM)
        running.head()
        process.signal(signal.SIGTERM)
        process.wait_for("stopping")
        process.signal(number)
        assert process.exit_code() == code


@pytest.mark.case("D6")
def test_a_killed_servers_port_can_be_had_again_at_once(engine_options: tuple[str, ...]) -> None:
    with serving("endless", *engine_options) as process, process.connect() as running:
        running.send(STREAM)
        running.head()
        port = process.port
        process.popen.kill()
        process.exit_code()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


@pytest.mark.case("D7", "D8")
def test_a_server_answers_while_it_loads_and_can_be_stopped(engine_options: tuple[str, ...]) -> None:
    with serving("loading", *LONG_GRACE, *engine_options) as process, process.connect() as wire:
        wire.send(get("/livez"))
        assert wire.reply().status == 200
        wire.send(WHOLE)
        reply = wire.reply()
        assert (reply.status, reply.code) == (503, "model_loading")
        assert int(reply.headers["retry-after"]) > 0
        process.signal()
        assert process.exit_code() == 0


def test_a_model_that_does_not_load_ends_the_server_with_its_error(engine_options: tuple[str, ...]) -> None:
    with serving("spoilt", *engine_options) as process:
        assert process.exit_code() == 4
        assert process.lines[-1] == "error: model.gguf: not the file it was\n"


@pytest.mark.case("N10")
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_an_engine_that_fails_for_good_ends_the_server_with_its_exit_code(data: bytes) -> None:
    with serving("failing") as process, process.connect() as wire, process.connect() as other:
        other.send(get("/health"))
        assert other.reply().json == {"status": "ok"}
        wire.send(data)
        reply = wire.reply()
        assert (reply.status, reply.code) == (500, None)
        with contextlib.suppress(OSError, ConnectionError):  # until it is gone
            while True:
                other.send(get("/health"))
                assert other.reply().json == {"status": "failed"}
        assert process.exit_code() == 7
        assert process.lines[-1] == "error: no memory for the cache\n"
        assert "Traceback" not in "".join(process.lines)


def test_a_bug_in_loading_ends_the_server_with_its_traceback(engine_options: tuple[str, ...]) -> None:
    with serving("bug", *engine_options) as process:
        assert process.exit_code() == 1
        assert "KeyError" in process.lines[-1]
