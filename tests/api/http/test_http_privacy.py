"""Keys and conversations are nobody's: not in logs, not on stderr, not in a file."""

from __future__ import annotations

import io
import logging
import tempfile
from pathlib import Path

import pytest

from glm_edge.api import log
from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.errors import EngineError
from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine, Step
from support.server.live_server import BODY, CHAT, LiveServer, eventually, get, post

KEY = "canary-key-7261"
PROMPT = "canary-prompt-9415"
BODY_LIMIT = 2**21


def script(request: Request) -> list[Step]:
    """Fails where the prompt asks for it."""
    steps: list[Step] = [PROMPT, "b"]
    return [*steps[: request.max_tokens or 2], EngineError("decode failed")] if request.stop else steps


def requests() -> list[bytes]:
    """Every outcome there is, each with the canaries in it where they may be."""
    auth = f"Authorization: Bearer {KEY}"
    message = {"messages": [{"role": "user", "content": PROMPT}]}
    return [
        post(message, auth),
        post({**message, "stream": True}, f"API-KEY: {KEY}"),
        post({**message, "stop": "x"}, auth),
        post({**message, "stop": "x", "stream": True}, auth),
        post({**message, "temperature": PROMPT}, auth),
        post({**message, PROMPT: 1}, auth),
        post({**message, "model": PROMPT}, auth),
        post({"messages": [{"role": PROMPT, "content": PROMPT}]}, auth),
        post({"messages": [{"role": "user", "content": PROMPT * 1000}]}, auth),
        post(PROMPT.encode(), auth),
        post(b'{"' + PROMPT.encode() + b'": 1, "' + PROMPT.encode() + b'": 2}', auth),
        post(message, f"Authorization: Bearer {KEY}x"),
        post(message, auth, "Origin: https://evil"),
        post(message, auth, path=f"{CHAT}?key={KEY}&prompt={PROMPT}"),
        post(message, auth, path="/nothing"),
        post(message, auth).replace(b"localhost", b"evil.com"),
        post(message, auth + "\0"),
        post(message, auth, "Transfer-Encoding: chunked"),
        post(message, auth, "Content-Encoding: gzip"),
        post(PROMPT.encode() * 200_000, auth),
        get("/v1/models", auth, "X: " + PROMPT * 3000),
    ]


@pytest.mark.case("A11")
def test_neither_a_key_nor_a_prompt_is_found_anywhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        LiveServer(FakeEngine(script, n_ctx=5000), policy=AccessPolicy(Keys([KEY])), body=BODY_LIMIT) as server,
    ):
        seen = set()
        for data in requests():
            reply = server.exchange(data)
            seen.add(reply.status)
            assert KEY.encode() not in reply.body
        with server.connect() as wire:  # and one that leaves
            wire.send(requests()[1])
        assert eventually(lambda: not server.server.busy)
    assert seen == {200, 400, 401, 403, 404, 413, 415, 431, 500}
    assert "POST /v1/chat/completions 200" in caplog.text
    output = capfd.readouterr()
    for canary in (KEY, PROMPT):
        assert canary not in caplog.text
        assert canary not in output.out + output.err


@pytest.mark.case("A11")
def test_a_large_conversation_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))  # opening a temporary file fails there
    text = "x" * (BODY_LIMIT - 1000)
    engine = FakeEngine([text], n_ctx=2**22)
    with LiveServer(engine, body=BODY_LIMIT) as server, server.connect() as wire:
        for _ in range(2):  # waitress swallows the failure, and closes the connection for it
            wire.send(post({"messages": [{"role": "user", "content": text}]}))
            assert wire.reply().json["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (post(b"x" * 2000, path=f"{CHAT}?{PROMPT}"), f"POST {CHAT} 413"),
        (post(BODY, "X: " + "y" * 40_000), "- - 431"),
        (post(BODY, "Transfer-Encoding: gzip"), "- - 501"),
        (b"nonsense\r\n\r\n", "- - 400"),
    ],
    ids=["body", "headers", "coding", "nonsense"],
)
def test_a_request_that_never_reached_the_app_is_in_the_log_under_its_id(
    caplog: pytest.LogCaptureFixture, data: bytes, line: str
) -> None:
    with caplog.at_level(logging.INFO), LiveServer(FakeEngine(), body=1000) as server:
        reply = server.exchange(data)
        assert eventually(lambda: reply.headers["x-request-id"] in caplog.text)
    assert f"127.0.0.1 {line}" in caplog.text
    assert PROMPT not in caplog.text


def test_what_the_server_says_goes_to_one_stream_in_whole_lines() -> None:
    stream = io.StringIO()
    names = ("glm_edge", "waitress", "waitress.queue")
    before = {name: logging.getLogger(name).__dict__.copy() for name in names}
    try:
        log.configure(stream)
        logging.getLogger("glm_edge.http").info("path %s", "/a\r\nb\x1b[2J\u202e")
        logging.getLogger("waitress").warning("waitress\n%s", "too")
        logging.getLogger("waitress.queue").warning("depth 1")
    finally:
        for name, state in before.items():
            logging.getLogger(name).__dict__.update(state)
    first, second = stream.getvalue().splitlines()
    assert first.endswith(r"INFO path /a\r\nb\x1b[2J\u202e")
    assert second.endswith(r"WARNING waitress\ntoo")
