"""What a request gets that waits: its position in the queue and an estimate, or 503 with Retry-After."""

from __future__ import annotations

import threading
import time

import openai
import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.admission import Admission
from glm_edge.api.app import create_app
from glm_edge.errors import RateLimitError
from glm_edge.generation import Progress
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, CHAT, HttpReply, LiveServer, Wire, eventually, post

pytestmark = pytest.mark.case("O2")

STREAM = post({**BODY, "stream": True})
SLOW = Progress(done=120, total=500)


def comments(wire: Wire, n: int) -> list[str]:
    """The next `n` comments of a stream, the role's event left out."""
    found: list[str] = []
    while len(found) < n:
        chunk = wire.chunk()
        assert chunk, "the stream ended"
        if chunk.startswith(b":"):
            found.append(chunk.decode().removesuffix("\n\n"))
    return found


@pytest.mark.case("O1")
def test_comments_of_a_stream_that_waits_have_its_position_and_eta_then_the_tokens_read() -> None:
    first, second = threading.Event(), threading.Event()
    scripts = iter([[first, "a"], [SLOW, second, "b"]])
    engine = FakeEngine(lambda _: next(scripts), slots=1)
    engine.answer_s = 14.2
    with LiveServer(engine) as server, server.connect() as one, server.connect() as other:
        one.send(STREAM)
        assert eventually(lambda: len(engine.played) == 1)
        other.send(STREAM)
        assert other.head().status == 200
        assert comments(other, 1) == [": queue 1 eta 15"]
        first.set()
        assert comments(other, 1) == [": prefill 120/500"]
        second.set()
        rest = b"".join(iter(other.chunk, b""))
        assert rest.count(b"data: [DONE]") == 1
        assert b'"content":"b"' in rest


@pytest.mark.case("O1")
def test_without_a_measured_speed_a_position_has_no_eta() -> None:
    go = threading.Event()
    with LiveServer(FakeEngine([go, "a"], slots=1)) as server, server.connect() as one, server.connect() as two:
        for wire in (one, two):
            wire.send(STREAM)
            assert wire.head().status == 200
        assert comments(two, 1) == [": queue 1"]
        go.set()


@pytest.mark.case("O1")
def test_the_same_comment_is_sent_again_only_after_a_silence() -> None:
    script = [SLOW, threading.Event()]
    with LiveServer(FakeEngine(script), ping_s=1.2) as server, server.connect() as wire:
        wire.send(STREAM)
        assert wire.head().status == 200
        assert comments(wire, 1) == [": prefill 120/500"]
        begin = time.monotonic()
        assert comments(wire, 1) == [": prefill 120/500"]
        assert time.monotonic() - begin > 1


@pytest.mark.case("S7")
@pytest.mark.parametrize("step", [SLOW, 0.0], ids=["progress", "silent"])
def test_comments_do_not_disturb_openais_client(step: Progress | float) -> None:
    go = threading.Event()
    with (
        LiveServer(FakeEngine([step, go, "好"], slots=1), ping_s=0.6) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model="chatglm2-6b", messages=[{"role": "user", "content": "x"}], stream=True
        )
        threading.Timer(2, go.set).start()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "好"


@pytest.mark.case("O6")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_that_would_wait_too_long_is_503_before_headers(stream: bool) -> None:
    engine = FakeEngine([threading.Event()], slots=1)
    with LiveServer(engine, max_wait_s=60) as server, server.connect() as wire:
        wire.send(post(BODY))
        assert eventually(lambda: len(engine.played) == 1)
        engine.answer_s = 90.0
        reply = server.exchange(post({**BODY, "stream": stream}))
        assert (reply.status, reply.code) == (503, "server_is_overloaded")
        assert reply.headers["retry-after"] == "30"  # then it would wait 60 s
        assert eventually(lambda: engine.generations[1].cancelled)


@pytest.mark.case("O6")
def test_a_request_that_has_waited_too_long_is_503() -> None:
    engine = FakeEngine([threading.Event()], slots=1)
    with LiveServer(engine, max_wait_s=0.9) as server, server.connect() as wire:
        wire.send(post(BODY))
        assert eventually(lambda: len(engine.played) == 1)
        assert server.exchange(post(BODY)).code == "server_is_overloaded"
        late = server.exchange(STREAM)  # this one has the error in its stream
        assert b'"server_is_overloaded"' in late.body
        assert not late.complete
        assert wire.socket.fileno() >= 0
        assert not engine.generations[0].cancelled  # running ones may take as long as they need


def keyed(server: LiveServer, key: str, **fields: object) -> HttpReply:
    return server.exchange(post({**BODY, **fields}, f"Authorization: Bearer {key}"))


@pytest.mark.case("O3")
def test_a_key_that_has_its_share_is_429_and_another_is_served() -> None:
    go = threading.Event()
    engine = FakeEngine([go, "x"], slots=4)
    with LiveServer(engine, policy=AccessPolicy(Keys(["one", "two"])), per_key=2) as server:
        wires = [server.connect() for _ in range(2)]
        for wire in wires:
            wire.send(post(BODY, "Authorization: Bearer one"))
        assert eventually(lambda: engine.live == 2)
        for stream in (False, True):
            refused = keyed(server, "one", stream=stream)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert refused.json["error"]["type"] == "rate_limit_error"
            assert int(refused.headers["retry-after"]) >= 1
        threading.Timer(0.2, go.set).start()
        assert keyed(server, "two").status == 200
        assert [wire.reply().status for wire in wires] == [200, 200]
        assert keyed(server, "one").status == 200  # its leases were released
        for wire in wires:
            wire.__exit__()


@pytest.mark.case("O3")
def test_answers_count_not_requests() -> None:
    with LiveServer(FakeEngine(), policy=AccessPolicy(Keys(["one"])), per_key=2) as server:
        assert keyed(server, "one", n=2).status == 200
        refused = keyed(server, "one", n=3)
        assert (refused.status, refused.json["error"]["param"]) == (400, "n")


@pytest.mark.case("O3")
@pytest.mark.parametrize("keys", [["one", "two"], ["one"]], ids=["two", "one"])
def test_by_default_a_key_has_half_of_the_capacity_where_there_are_others(keys: list[str]) -> None:
    admission = Admission(FakeEngine(), capacity=4)
    client = create_app(admission, policy=AccessPolicy(Keys(keys))).test_client()
    headers = {"Authorization": "Bearer one"}
    held = [client.post(CHAT, json={**BODY, "stream": True}, headers=headers, buffered=False) for _ in range(3)]
    assert [one.status_code for one in held] == ([200, 200, 429] if len(keys) == 2 else [200] * 3)
    for one in held:
        one.close()


@pytest.mark.case("O3")
def test_retry_after_is_what_answers_have_taken() -> None:
    now = 0.0
    admission = Admission(per_key=1, clock=lambda: now)
    lease = admission.acquire(b"key")
    lease.accepted = True
    now = 7.0
    lease.release()
    admission.acquire(b"key")
    with pytest.raises(RateLimitError) as error:
        admission.acquire(b"key")
    assert error.value.retry_after == 7


@pytest.mark.case("O3")
def test_requests_that_the_engine_turned_away_make_no_answer_look_quick() -> None:
    engine = FakeEngine(lambda request: [threading.Event()] if request.stop else ["x", 1.2], slots=1, waiting=0)
    with LiveServer(engine, policy=AccessPolicy(Keys(["one", "two"])), per_key=1) as server, server.connect() as wire:
        assert keyed(server, "one").status == 200
        wire.send(post({**BODY, "stop": "y"}, "Authorization: Bearer one"))
        assert eventually(lambda: engine.live == 1)
        for _ in range(20):
            assert keyed(server, "two").code == "server_is_overloaded"
        assert keyed(server, "one").headers["retry-after"] == "2"


def test_a_waiting_stream_that_has_begun_is_answered_by_a_server_that_drains() -> None:
    """Nobody can ask another server for it: its head is sent."""
    go = threading.Event()
    with (
        LiveServer(FakeEngine(["a", go, "b"], slots=1)) as server,
        server.connect() as first,
        server.connect() as second,
    ):
        first.send(post({**BODY, "stream": True}))
        assert b"role" in ((first.head() and first.chunk()) or b"")
        second.send(post({**BODY, "stream": True}))
        assert second.head().status == 200
        server.admission.drain()
        go.set()
        data = b""
        while chunk := second.chunk():
            data += chunk
    assert data.endswith(b"data: [DONE]\n\n")
