"""`glm-edge serve` whose engine dies, hangs or loses its file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from support.paths import SUPPORT
from support.server.live_server import BODY, PATIENCE, eventually, get, post
from support.server.server_process import GREEDY, Server, run

pytestmark = [pytest.mark.case("D7"), pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")]

ENDLESS = {**BODY, "temperature": 0, "stream": True}


def serving(*options: str, **environment: str) -> AbstractContextManager[Server]:
    always = ("--port", "0", "--threads", "1", "--no-cache")
    return run("-m", "glm_edge", "serve", *always, *options, **environment)


def crashing(*options: str) -> AbstractContextManager[Server]:
    """An engine that does what the last message says, in a child."""
    return run(str(SUPPORT / "server" / "serve_fake_engine.py"), "obeys", "--worker", *options)


def order(words: str) -> bytes:
    return post({"messages": [{"role": "user", "content": words}]})


@pytest.mark.case("O8")
def test_killed_during_four_streams(tiny_f32: Path) -> None:
    with serving("--model", str(tiny_f32)) as server:
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
            assert b'"code":"engine_died"' in rest.replace(b" ", b"")
            assert b"[DONE]" not in rest
            wire.__exit__()
        status, headers, body = server.ask(post(GREEDY))
        assert (status, "model_loading" in body) == (503, True)
        assert 1 <= int(headers["retry-after"]) <= 60
        assert server.ask(get("/health"))[0] == 503
        assert eventually(lambda: server.ask(get("/health"))[0] == 200, 60)
        after = server.ask(post(GREEDY))
        assert after[0] == 200
        content = r'"content": ?"[^"]*"'
        assert re.findall(content, after[2]) == re.findall(content, before[2])
        assert server.popen.poll() is None
        assert server.popen.pid == parent


@pytest.mark.case("O7")
def test_a_hang_costs_its_answer_and_the_engine_comes_back() -> None:
    with crashing("--patience", "2") as server, server.connect() as wire:
        server.said("serving")
        hung = server.child
        wire.send(order("hang"))
        reply = wire.reply()
        assert (reply.status, reply.code) == (500, "engine_died")
        assert not hung.is_running()
        server.said("made no progress for 2 s")
        assert eventually(lambda: server.ask(get("/health"))[0] == 200, 60)
        assert server.ask(order("hi"))[0] == 200


@pytest.mark.case("O9")
def test_a_prompt_that_kills_three_times_is_refused_and_clients_are_told_not_to_retry() -> None:
    with crashing() as server:
        server.said("serving")
        for _ in range(3):
            status, _, body = server.ask(order("SIGSEGV"))
            assert (status, "engine_died" in body) == (500, True)
            server.said("is started again")
            status, headers, _ = server.ask(order("hi"))
            if status == 503:  # not up again yet
                assert int(headers["retry-after"]) > 0
            assert eventually(lambda: server.ask(order("hi"))[0] == 200, 60)
        child = server.child.pid
        status, headers, body = server.ask(order("SIGSEGV"))
        assert (status, "engine_crash" in body) == (500, True)
        assert headers["x-should-retry"] == "false"
        assert server.ask(order("hi"))[0] == 200
        assert server.child.pid == child


@pytest.mark.case("D10")
def test_a_model_cut_short_is_named_in_the_log_and_served_again_when_it_is_put_back(
    tiny_f32: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    with serving("--model", str(model)) as server:
        server.said("serving")
        os.truncate(model, model.stat().st_size // 2)  # what is loaded without a map does not notice
        server.child.kill()
        server.said(r"model\.gguf.*put the model file back")
        status, headers, body = server.ask(post(GREEDY))
        assert (status, "model_loading" in body) == (503, True)
        assert int(headers["retry-after"]) > 0
        assert "model.gguf" not in body
        assert server.ask(get("/health"))[0] == 503
        assert server.ask(get("/livez"))[0] == 200
        shutil.copyfile(tiny_f32, tmp_path / "again")
        (tmp_path / "again").replace(model)
        assert eventually(lambda: server.ask(get("/health"))[0] == 200, 60)
        assert server.ask(post(GREEDY))[0] == 200
        assert server.popen.poll() is None


@pytest.mark.case("D5")
def test_a_second_signal_during_a_stream_leaves_nothing_behind(tiny_f32: Path) -> None:
    with serving("--model", str(tiny_f32)) as server, server.connect() as wire:
        server.said("serving")
        child = server.child
        wire.send(post(ENDLESS))
        assert wire.head().status == 200
        server.popen.send_signal(signal.SIGTERM)
        server.said("stopping when the running answers end")
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(PATIENCE) == 143
        assert eventually(lambda: gone(child))


@pytest.mark.case("D6")
def test_the_engine_does_not_outlive_a_killed_server(tiny_f32: Path) -> None:
    with serving("--model", str(tiny_f32)) as server, server.connect() as wire:
        server.said("serving")
        child, port = server.child, server.port
        wire.send(post(ENDLESS))
        assert wire.head().status == 200
        server.popen.kill()
        server.popen.wait(PATIENCE)
        assert eventually(lambda: gone(child))
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_itself_loads_nothing_native_and_the_banner_comes_once(tmp_path: Path) -> None:
    with serving(XDG_DATA_HOME=str(tmp_path)):  # makes the demo model
        pass
    with serving(XDG_DATA_HOME=str(tmp_path)) as server:
        server.said("demo model, ")
        server.said("serving glm-edge-demo")
        maps = Path(f"/proc/{server.popen.pid}/maps").read_text("utf-8")
        assert "numpy" not in maps
        assert "ggml" not in maps
        server.child.kill()
        assert eventually(lambda: server.ask(get("/health"))[0] == 503)
        assert eventually(lambda: server.ask(get("/health"))[0] == 200, 60)
        server.popen.send_signal(signal.SIGTERM)
        assert "demo model, " not in server.rest()


def test_in_process_there_is_no_child(tiny_f32: Path) -> None:
    with serving("--model", str(tiny_f32), "--in-process") as server:
        server.said("serving")
        assert server.ask(post(GREEDY))[0] == 200
        assert psutil.Process(server.popen.pid).children() == []


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["d7", "d6"])
def test_told_to_go_while_it_loads_nothing_stays(tiny_f32: Path, number: signal.Signals) -> None:
    with serving("--model", str(tiny_f32)) as server:
        assert eventually(lambda: bool(psutil.Process(server.popen.pid).children()))
        child = server.child
        server.popen.send_signal(number)
        assert server.popen.wait(PATIENCE) == (0 if number == signal.SIGTERM else -number)
        assert eventually(lambda: gone(child))
