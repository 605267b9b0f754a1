"""The server on the wire: sizes, deadlines, keep-alive."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from waitress.adjustments import Adjustments

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.http.limits import Deadlines
from glm_edge.api.http.parser import StrictParser
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, CHAT, PATIENCE, LiveServer, eventually, file_limit, get, post

LIMIT = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(), body=LIMIT) as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine(), policy=AccessPolicy(Keys(["key"])), body=LIMIT) as server:
        yield server


def chunked(body: bytes, *headers: str) -> bytes:
    head = ["POST " + CHAT + " HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    pieces = [body[i : i + 100] for i in range(0, len(body), 100)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode() + data + b"0\r\n\r\n"


@pytest.mark.case("H10")
def test_a_body_at_the_limit_is_read_in_both_framings(server: LiveServer) -> None:
    body = json.dumps(BODY).encode().ljust(LIMIT)
    assert server.exchange(post(body)).status == 200
    body = body[: LIMIT - 300]  # chunk sizes and line ends count too
    assert server.exchange(chunked(body)).status == 200


@pytest.mark.case("H10")
def test_a_body_over_the_limit_is_413_and_closed(server: LiveServer) -> None:
    body = json.dumps(BODY).encode().ljust(LIMIT + 1)
    for data in (post(body), chunked(body)):
        with server.connect() as wire:
            wire.send(data)
            reply = wire.reply()
            assert (reply.status, reply.code) == (413, "request_too_large")
            assert reply.headers["x-request-id"].startswith("req_")
            assert reply.headers["connection"] == "close"
            assert str(LIMIT) in reply.json["error"]["message"]
            assert wire.closed


@pytest.mark.case("H10")
def test_a_client_that_sends_all_of_a_huge_body_first_still_reads_the_413(server: LiveServer) -> None:
    with server.connect() as wire:
        wire.send(post(b"x" * 5_000_000))
        assert wire.reply().status == 413


@pytest.mark.case("A7")
def test_without_a_key_a_huge_body_is_401(guarded: LiveServer) -> None:
    with guarded.connect() as wire:
        wire.send(post(b"x" * 5_000_000))
        assert wire.reply().code == "invalid_api_key"
    with guarded.connect() as wire:
        wire.send(post(b"x" * 900))
        assert wire.reply().status == 401
        wire.send(post(BODY, "API-KEY: key"))  # the body went by, the connection goes on
        assert wire.reply().status == 200
    assert guarded.exchange(chunked(b"x" * 900)).status == 401


@pytest.mark.case("A7")
def test_without_a_key_a_body_is_not_kept() -> None:
    parser = StrictParser(AccessPolicy(Keys(["key"])), "127.0.0.1", Adjustments())
    data = post(b"x" * 900)
    assert parser.received(data[:-900]) + parser.received(data[-900:]) == len(data)
    assert parser.completed
    assert parser.get_body_stream().read() == b""


@pytest.mark.case("A3")
def test_a_huge_or_odd_key_is_refused(guarded: LiveServer) -> None:
    assert guarded.exchange(get("/v1/models", "API-KEY: " + "k" * 1_000_000)).status == 431
    assert guarded.exchange(get("/v1/models", "Authorization: Bearer \xe9\xff")).status == 401
    assert guarded.exchange(get("/v1/models", "Authorization: Bearer a\0b")).status == 400
    twice = ["Authorization: Bearer key", "Authorization: Bearer key"]
    assert guarded.exchange(get("/v1/models", *twice)).status == 401
    assert guarded.exchange(get("/v1/models", "Authorization: Bearer key")).status == 200


SLOW = Deadlines(read=3600, idle=3600)  # who is served at all has not waited for idle clients to be closed
LARGE = {
    "header": (get("/health", "X: " + "x" * 33_000), 431),
    "many-bytes": (get("/health", *[f"X-{n}: {'x' * 100}" for n in range(400)]), 431),
    "many-headers": (get("/health", *[f"X-{n}: 1" for n in range(1000)]), 400),
    "request-line": (get("/" + "x" * 65_000), 431),
    "endless": (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, 431),
}


@pytest.mark.case("H24")
@pytest.mark.parametrize(("data", "status"), LARGE.values(), ids=LARGE)
def test_large_headers_are_refused_and_the_connection_is_closed(server: LiveServer, data: bytes, status: int) -> None:
    with server.connect() as wire:
        wire.send(data)
        assert wire.reply().status == status
        assert wire.closed


@pytest.mark.case("H24", "N14")
@pytest.mark.parametrize("header", ["X:" + " " * 32_000 + "\0", "X: " + "x " * 16_000 + "\0"], ids=["spaces", "words"])
def test_no_header_takes_long_to_read(server: LiveServer, header: str) -> None:
    """waitress's pattern for a header takes 32 s of a processor for such spaces, in the thread that reads for all."""
    begin = time.process_time()
    assert server.exchange(get("/health", header)).status == 400
    assert time.process_time() - begin < 8


@pytest.mark.case("H25")
def test_http_1_0_is_answered_without_chunks(server: LiveServer) -> None:
    reply = server.exchange(post({**BODY, "stream": True}, version="1.0"))
    assert reply.status == 200
    assert "transfer-encoding" not in reply.headers
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert server.exchange(b"GET /health HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.case("H26")
def test_pipelined_requests_are_answered_in_order(server: LiveServer) -> None:
    with server.connect() as wire:
        wire.send(get("/livez") + post(BODY) + get("/nothing"))
        replies = [wire.reply() for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 404]
    assert "choices" in replies[1].json


@pytest.mark.case("H26")
def test_a_connection_serves_many_requests_with_the_same_threads(server: LiveServer) -> None:
    with server.connect() as wire:
        threads = threading.active_count()
        for _ in range(300):
            wire.send(get("/health"))
            assert wire.reply().status == 200
        assert threading.active_count() == threads


@pytest.mark.case("H27")
def test_a_client_that_waits_for_permission_gets_it(server: LiveServer) -> None:
    body = json.dumps(BODY).encode()
    head = post(body, "Expect: 100-continue")[: -len(body)]
    with server.connect() as wire:
        wire.send(head)
        assert wire.head().status == 100
        wire.send(body)
        assert wire.reply().status == 200
        wire.send(get("/health", "Expect: 100-continue"))
        assert wire.reply().status == 200
    too_large = post(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 99999")
    assert server.exchange(too_large).status == 413


DRIPS = {
    "silence": (b"", b""),
    "slow-headers": (b"GET /health HTTP/1.1\r\nX: ", b"x"),
    "slow-body": (post(b" " * 500)[:-499], b" "),
    "slow-chunks": (chunked(b"")[:-5], b"1\r\n \r\n"),
    "second-request": (get("/health") + b"GET ", b"x"),
}


@pytest.mark.case("O4")
@pytest.mark.parametrize(("start", "drop"), DRIPS.values(), ids=DRIPS)
def test_a_request_that_takes_too_long_is_closed_though_it_drips(start: bytes, drop: bytes) -> None:
    with LiveServer(FakeEngine(), deadlines=Deadlines(read=0.5, idle=60)) as server, server.connect() as wire:
        begin = time.monotonic()
        wire.send(start)
        while server.server.connections or time.monotonic() - begin < 0.2:
            assert time.monotonic() - begin < PATIENCE
            try:
                wire.send(drop)
            except OSError:
                break
            time.sleep(0.02)  # the slow client
        assert time.monotonic() - begin > 0.4


@pytest.mark.case("O4")
def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    with LiveServer(FakeEngine(), deadlines=Deadlines(read=60, idle=2)) as server, server.connect() as wire:
        begin = time.monotonic()
        for _ in range(3):
            wire.send(get("/health"))
            assert wire.reply().status == 200
            time.sleep(0.8)  # the slow client
        assert wire.closed
        assert time.monotonic() - begin > 3


@pytest.mark.case("O5")
def test_a_flood_of_connections_does_not_keep_a_health_check_waiting_and_leaves_nothing() -> None:
    with file_limit(2500) as most, LiveServer(FakeEngine(), deadlines=SLOW) as server:
        flood = [server.connect() for _ in range(min(1000, most // 2 - 200))]
        assert server.exchange(get("/health")).status == 200
        for wire in flood:
            wire.__exit__()
        assert eventually(lambda: server.server.connections == 0)


def test_a_connection_over_the_limit_waits_until_one_closes() -> None:
    with LiveServer(FakeEngine(), connections=12) as server:
        some = [server.connect() for _ in range(15)]
        some[-1].send(get("/health"))
        for wire in some[:-1]:
            wire.__exit__()
        assert some[-1].reply().status == 200
        some[-1].__exit__()


@pytest.mark.case("O4")
def test_200_idle_connections_do_not_keep_a_good_request_waiting() -> None:
    with LiveServer(FakeEngine(), deadlines=SLOW) as server:
        idle = [server.connect() for _ in range(200)]
        try:
            assert eventually(lambda: server.server.connections == 200)
            assert server.exchange(post(BODY)).status == 200
            assert server.server.connections >= 200
        finally:
            for wire in idle:
                wire.__exit__()
