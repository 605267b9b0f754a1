"""Requests that come while the model is loaded, where the server lets them wait (`serve --wait-for-model`)."""

from __future__ import annotations

import pytest

from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, LiveServer, Wire, post

pytestmark = pytest.mark.case("D8")

STREAM = post({**BODY, "stream": True})


def waiting(**options: object) -> LiveServer:
    return LiveServer(FakeEngine(["a"]), loading=True, wait_for_model=True, **options)  # type: ignore[arg-type]


def begins_with(wire: Wire, comment: bytes) -> bool:
    """Whether a stream begins with this comment."""
    assert wire.head().status == 200
    return wire.chunk() == comment + b"\n\n"


def test_streams_tell_their_position_and_are_answered_once_the_model_is_loaded() -> None:
    with waiting() as server, server.connect() as one, server.connect() as two, server.connect() as whole:
        one.send(STREAM)
        assert begins_with(one, b": queue 1")
        two.send(STREAM)
        assert begins_with(two, b": queue 2")
        whole.send(post(BODY))
        assert server.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 503
        server.admission.ready(server.engine)
        for wire in (one, two):
            rest = b"".join(iter(wire.chunk, b""))
            assert rest.count(b"data: [DONE]") == 1
            assert b'"content":"a"' in rest
        assert whole.reply().status == 200


def test_a_load_whose_speed_is_known_has_an_eta() -> None:
    with waiting(load_left_s=lambda: 11.2) as server, server.connect() as wire:
        wire.send(STREAM)
        assert begins_with(wire, b": queue 1 eta 12")


def test_a_client_that_leaves_frees_its_position() -> None:
    with waiting() as server, server.connect() as two:
        with server.connect() as one:
            one.send(STREAM)
            assert begins_with(one, b": queue 1")
            two.send(STREAM)
            assert begins_with(two, b": queue 2")
        assert two.chunk() == b": queue 1\n\n"


def test_a_request_that_waits_longer_than_max_wait_is_503() -> None:
    with waiting(max_wait_s=0.1) as server:
        reply = server.exchange(post(BODY))
        assert (reply.status, reply.code) == (503, "server_is_overloaded")
        assert "for the model to be loaded" in reply.json["error"]["message"]


def test_what_waits_is_told_when_the_server_ends() -> None:
    with waiting() as server, server.connect() as stream:
        stream.send(STREAM)
        assert begins_with(stream, b": queue 1")
        server.admission.drain()
        assert b'"code":"shutting_down"' in b"".join(iter(stream.chunk, None))


def test_what_is_wrong_with_a_request_is_an_event_of_a_stream_that_has_begun() -> None:
    with waiting() as server, server.connect() as wire:
        wire.send(post({**BODY, "stream": True, "model": "another"}))
        assert begins_with(wire, b": queue 1")
        server.admission.ready(server.engine)
        rest = b"".join(iter(wire.chunk, None))
        assert b'"code":"model_not_found"' in rest
        assert b"[DONE]" not in rest
