"""Streams on the wire: events at once, pings in silence, errors that look like no end."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from typing import Any

import pytest

from glm_edge.api.admission import Admission
from glm_edge.api.http.limits import Deadlines
from glm_edge.errors import EngineError
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, CHAT, LiveServer, Wire, eventually, get, post

STREAM = post({**BODY, "stream": True})


def next_event(wire: Wire) -> Any:
    """The next event's data; a comment as its text; None for the end that HTTP marks."""
    chunk = wire.chunk()
    if chunk is None:
        raise ConnectionAbortedError("closed without an end")
    text = chunk.decode()
    if not text.startswith("data: {"):
        return text.removeprefix("data: ").strip() or None
    return json.loads(text.removeprefix("data: "))


def content(event: Any) -> str | None:
    delta = event["choices"][0]["delta"]
    return str(delta["content"]) if "content" in delta else None


@pytest.mark.case("S4")
def test_each_token_arrives_as_it_is_made() -> None:
    go = [threading.Event() for _ in range(3)]
    script = [go[0], "一", go[1], "二", go[2], "三"]
    with LiveServer(FakeEngine(script)) as server, server.connect() as wire:
        wire.send(STREAM)
        go[0].set()
        assert wire.head().status == 200
        assert content(next_event(wire)) == ""
        assert content(next_event(wire)) == "一"
        for event, text in zip(go[1:], "二三", strict=True):
            event.set()
            assert content(next_event(wire)) == text  # while the next is not made yet


@pytest.mark.case("S7")
def test_a_stream_shows_life_before_the_first_token_and_pings_in_silence() -> None:
    assert Admission().ping_s <= 15
    go = threading.Event()
    with LiveServer(FakeEngine([go, "好"]), ping_s=0.3) as server, server.connect() as wire:
        wire.send(STREAM)
        assert wire.head().status == 200
        assert next_event(wire)["choices"][0]["delta"]["role"] == "assistant"
        assert next_event(wire) == ": ping"
        assert next_event(wire) == ": ping"
        go.set()
        while (event := next_event(wire)) == ": ping":
            pass
        assert content(event) == "好"


@pytest.mark.case("S8")
@pytest.mark.parametrize("k", range(5))
def test_an_engine_that_fails_after_k_chunks(k: int) -> None:
    script = [*["a", "b", "c", "d"][:k], EngineError("decode failed in /home/me")]
    with LiveServer(FakeEngine(script)) as server, server.connect() as wire:
        wire.send(STREAM)
        reply = wire.reply()
        assert "/home" not in reply.body.decode()
        if k == 0:
            assert reply.status == 500
            assert reply.json["error"]["type"] == "server_error"
            return
        assert reply.status == 200
        assert not reply.complete  # no terminal chunk: curl says 18
        assert wire.closed
        *events, last = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n")[:-1]]
        assert "".join(content(event) or "" for event in events) == "abcd"[:k]
        assert set(last) == {"error"}
        assert last["error"]["type"] == "server_error"
        assert reply.headers["x-request-id"] in last["error"]["message"]
        assert b"[DONE]" not in reply.body


@pytest.mark.case("S8")
def test_an_engine_that_fails_after_the_first_sign_of_life_sends_an_error_event() -> None:
    with LiveServer(FakeEngine([1.0, EngineError("broken")])) as server, server.connect() as wire:
        wire.send(STREAM)
        reply = wire.reply()
        assert (reply.status, reply.complete) == (200, False)
        assert '"server_error"' in reply.body.decode().split("\n\n")[-2]


@pytest.mark.case("S8")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_says_18_of_a_stream_that_failed() -> None:
    with LiveServer(FakeEngine(["a", EngineError("broken")])) as server:
        command = ["curl", "-sS", f"{server.url}{CHAT}", "--json", json.dumps({**BODY, "stream": True})]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 18, done.stderr  # a transfer that ended early
    assert b'"server_error"' in done.stdout


@pytest.mark.case("S8")
def test_the_log_says_why_a_stream_failed(caplog: pytest.LogCaptureFixture) -> None:
    with LiveServer(FakeEngine(["a", EngineError("decode failed: -3")])) as server:
        reply = server.exchange(STREAM)
        assert eventually(lambda: "decode failed: -3" in caplog.text)
    assert reply.headers["x-request-id"] in caplog.text


@pytest.mark.case("S8")
def test_a_bug_of_ours_is_an_error_event_too_and_the_log_has_only_its_file_and_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LiveServer(FakeEngine(["a", "\ud800 is half a character, which no engine gives"])) as server:
        reply = server.exchange(STREAM)
        request_id = reply.headers["x-request-id"]
        assert eventually(lambda: f"{request_id} UnicodeEncodeError at" in caplog.text)
        figures = server.exchange(get("/metrics")).body.decode()
    assert not reply.complete
    error = json.loads(reply.body.decode().split("\n\n")[-2][6:])["error"]
    assert (error["type"], request_id in error["message"]) == ("server_error", True)
    assert "Traceback" not in caplog.text
    assert 'outcome="failed",path="/v1/chat/completions"' in figures


@pytest.mark.case("S9")
def test_a_client_that_stops_reading_is_cut_off_and_others_are_not_slowed() -> None:
    flood = ["x" * 10_000] * 3000
    engine = FakeEngine(lambda request: flood if request.stop else ["ok"])
    with LiveServer(engine, deadlines=Deadlines(stalled=0.5)) as server, server.connect() as stuck:
        stuck.send(post({**BODY, "stream": True, "stop": "y"}))
        assert stuck.head().status == 200
        assert server.exchange(post(BODY)).status == 200
        assert eventually(lambda: server.server.connections == 0)
        assert eventually(lambda: not server.server.busy)


@pytest.mark.case("S9")
def test_a_client_that_reads_slowly_gets_everything() -> None:
    script = [str(n % 10) * 5000 for n in range(200)]
    with LiveServer(FakeEngine(script), deadlines=Deadlines(stalled=1.5)) as server, server.connect() as wire:
        wire.send(STREAM)
        wire.head()
        text = ""
        for n in range(10_000):
            if (event := next_event(wire)) == "[DONE]":
                break
            text += content(event) or ""
            if n % 50 == 0:
                time.sleep(0.5)  # the slow client, 2 s in all
        assert text == "".join(script)


def test_eight_streams_at_once_lose_and_mix_nothing() -> None:
    engine = FakeEngine(lambda request: [f"{request.messages[0].content}-{n} " for n in range(100)], slots=8)
    texts: dict[str, str] = {}

    def run(server: LiveServer, name: str) -> None:
        with server.connect() as wire:
            wire.send(post({"messages": [{"role": "user", "content": name}], "stream": True}))
            wire.head()
            while (event := next_event(wire)) != "[DONE]":
                texts[name] = texts.get(name, "") + (content(event) or "")

    with LiveServer(engine) as server:
        threads = [threading.Thread(target=run, args=(server, f"客户{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {name: "".join(f"{name}-{n} " for n in range(100)) for name in (f"客户{n}" for n in range(8))}
