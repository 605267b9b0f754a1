"""A request that two programs could read differently is refused, and nothing after it is run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from glm_edge.api.log import OneLine
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, CHAT, LiveServer, eventually, get, post


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(FakeEngine()) as server:
        yield server


DATA = json.dumps(BODY).encode()
SECOND = post(BODY)


def request(*lines: str, first: str = f"POST {CHAT} HTTP/1.1", end: str = "\r\n", body: bytes = DATA) -> bytes:
    head = [first, "Host: localhost", "Content-Type: application/json", *lines, "", ""]
    return end.join(head).encode("latin-1") + body


LENGTH = f"Content-Length: {len(DATA)}"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA)

REFUSED = {
    "two-lengths": request(LENGTH, "Content-Length: 0"),
    "two-equal-lengths": request(LENGTH, LENGTH),
    "length-list": request(f"{LENGTH}, {len(DATA)}"),
    "length-and-chunked": request(LENGTH, "Transfer-Encoding: chunked", body=CHUNKS),
    "chunked-and-length": request("Transfer-Encoding: chunked", LENGTH, body=CHUNKS),
    "unknown-encoding": request("Transfer-Encoding: xchunked", body=CHUNKS),
    "encoding-list": request("Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "chunked-twice": request("Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "two-encodings": request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS),
    "encoding-with-vertical-tab": request("Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "encoding-identity": request("Transfer-Encoding: identity", LENGTH),
    "chunked-in-1.0": request(
        "Connection: keep-alive", "Transfer-Encoding: chunked", first=f"POST {CHAT} HTTP/1.0", body=CHUNKS
    ),
    "length-plus": request(f"Content-Length: +{len(DATA)}"),
    "length-minus": request("Content-Length: -1"),
    "length-hex": request("Content-Length: 0x10"),
    "length-underscore": request("Content-Length: 1_0"),
    "length-empty": request("Content-Length:"),
    "bare-line-ends": request(LENGTH, end="\n"),
    "one-bare-line-end": request("X: a\nY: b", LENGTH),
    "one-bare-return": request("X: a\rY: b", LENGTH),
    "space-before-colon": request(LENGTH.replace(":", " :")),
    "space-in-name": request("Content Length: 5", LENGTH),
    "no-colon": request("Content-Length", LENGTH),
    "folded": request("X: a", " b", LENGTH),
    "folded-first": request(LENGTH).replace(b"\r\nHost", b"\r\n Host", 1),
    "nul-in-header": request("X: a\0b", LENGTH),
    "nul-in-path": request(LENGTH, first=f"POST {CHAT}\0 HTTP/1.1"),
    "escape-in-path": request(LENGTH, first=f"POST {CHAT}\x1b[31m HTTP/1.1"),
    "two-hosts": request("Host: localhost", LENGTH),
    "no-host": request(LENGTH).replace(b"Host: localhost\r\n", b""),
    "version-1.2": request(LENGTH, first=f"POST {CHAT} HTTP/1.2"),
    "version-2.0": request(LENGTH, first=f"POST {CHAT} HTTP/2.0"),
    "no-version": request(LENGTH, first=f"POST {CHAT}"),
    "lower-case-method": request(LENGTH, first=f"post {CHAT} HTTP/1.1"),
    "two-spaces": request(LENGTH, first=f"POST  {CHAT} HTTP/1.1"),
    "other-host-in-url": request(LENGTH, first=f"POST http://evil.com{CHAT} HTTP/1.1"),
    "chunk-size-signed": request("Transfer-Encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk-too-short": request("Transfer-Encoding: chunked", body=b"2\r\nhello\r\n0\r\n\r\n"),
    "chunk-bare-line-end": request("Transfer-Encoding: chunked", body=b"5\nhello\r\n0\r\n\r\n"),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.case("H23")
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_an_ambiguous_request_is_refused_and_what_follows_is_not_run(server: LiveServer, data: bytes) -> None:
    before = len(server.engine.requests)
    with server.connect() as wire:
        wire.send(data + SECOND)
        reply = wire.reply()
        assert reply.status in (400, 501)
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["connection"] == "close"
        assert set(reply.json["error"]) == {"message", "type", "param", "code"}
        assert wire.closed
    assert len(server.engine.requests) == before


def chunked(framing: bytes) -> bytes:
    return request(
        "Transfer-Encoding: chunked", body=framing.replace(b"SIZE", b"%x" % len(DATA)).replace(b"DATA", DATA)
    )


# What ends a line or a trailer for one program only, or would be a header if it were merged into them (RFC 9112 7.1).
BAD_CHUNKS = {
    "line-feed-after-size": b"SIZE\nDATA\r\n0\r\n\r\n",
    "line-feed-in-size-line": b"SIZE\n\r\nDATA\r\n0\r\n\r\n",
    "line-feed-in-extension": b"SIZE;a\n\r\nDATA\r\n0\r\n\r\n",
    "line-feed-in-extension-value": b"SIZE;a=b\nc\r\nDATA\r\n0\r\n\r\n",
    "return-in-extension": b"SIZE;a\rb\r\nDATA\r\n0\r\n\r\n",
    "line-feed-in-quoted-value": b'SIZE;a="b\nc"\r\nDATA\r\n0\r\n\r\n',
    "space-after-size": b"SIZE \r\nDATA\r\n0\r\n\r\n",
    "empty-line-before-size": b"\r\nSIZE\r\nDATA\r\n0\r\n\r\n",
    "line-feed-after-data": b"SIZE\r\nDATA\n0\r\n\r\n",
    "line-feed-after-last-size": b"SIZE\r\nDATA\r\n0\n\r\n",
    "two-line-feeds-after-last-size": b"SIZE\r\nDATA\r\n0\n\n",
    "line-feed-before-last-return": b"SIZE\r\nDATA\r\n0\n\r\n\r\n",
    "line-feed-as-end": b"SIZE\r\nDATA\r\n0\r\n\n",
    "line-feed-as-end-of-trailer": b"SIZE\r\nDATA\r\n0\r\nT: x\n\n",
    "line-feed-in-trailer": b"SIZE\r\nDATA\r\n0\r\nT: x\nU: y\r\n\r\n",
    "trailer-without-colon": b"SIZE\r\nDATA\r\n0\r\nGET /admin HTTP/1.1\r\n\r\n",
    "trailer-space-before-colon": b"SIZE\r\nDATA\r\n0\r\nT : x\r\n\r\n",
    "trailer-folded": b"SIZE\r\nDATA\r\n0\r\nT: x\r\n y\r\n\r\n",
    "trailer-nul": b"SIZE\r\nDATA\r\n0\r\nT: \0\r\n\r\n",
    "trailer-content-length": b"SIZE\r\nDATA\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer-transfer-encoding": b"SIZE\r\nDATA\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "trailer-host": b"SIZE\r\nDATA\r\n0\r\nHost: evil.com\r\n\r\n",
    "trailer-key": b"SIZE\r\nDATA\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer-connection": b"SIZE\r\nDATA\r\n0\r\nConnection: close\r\n\r\n",
    "many-trailers": b"SIZE\r\nDATA\r\n0\r\n" + b"T: x\r\n" * 1000 + b"\r\n",
    "long-trailer": b"SIZE\r\nDATA\r\n0\r\nT: " + b"x" * 40_000 + b"\r\n\r\n",
    "long-extension": b"SIZE;a=" + b"x" * 40_000 + b"\r\nDATA\r\n0\r\n\r\n",
}


@pytest.mark.case("N4")
@pytest.mark.parametrize("framing", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_chunks_that_two_programs_could_read_differently_are_refused(server: LiveServer, framing: bytes) -> None:
    before = len(server.engine.requests)
    with server.connect() as wire:
        wire.send(chunked(framing) + SECOND)
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert wire.closed
    assert len(server.engine.requests) == before


@pytest.mark.case("N4")
def test_bad_chunks_are_refused_without_waiting_for_more(server: LiveServer) -> None:
    """As soon as the fault is there: a program that waits for more gives the other one time to use it."""
    for framing in (b"SIZE\n", b"SIZE\r\nDATA\r\n0\n", b"SIZE\r\nDATA\r\n0\r\nT: x\n", b"SIZE;a\n"):
        assert server.exchange(chunked(framing)).status == 400


@pytest.mark.case("H23")
def test_a_request_with_bare_line_ends_is_refused_without_waiting_for_more(server: LiveServer) -> None:
    assert server.exchange(REFUSED["bare-line-ends"]).status == 400


GOOD = {
    "length": request(LENGTH),
    "chunked": request("Transfer-Encoding: chunked", body=CHUNKS),
    "chunked-spelled": request("TRANSFER-ENCODING:  Chunked\t", body=CHUNKS),
    "chunk-extension": request(
        "Transfer-Encoding: chunked",
        body=CHUNKS.replace(b"\r\n", b";a=b\r\n", 1).replace(b"0\r\n\r\n", b"0\r\nT: x\r\n\r\n"),
    ),
    "chunk-extensions": request(
        "Transfer-Encoding: chunked", body=CHUNKS.replace(b"\r\n", b';a;b=c;d="e \\" f"\r\n', 1)
    ),
    "size-with-zeros": request("Transfer-Encoding: chunked", body=b"000" + CHUNKS),
    "line-ends-before": b"\r\n\r\n" + request(LENGTH),
    "same-host-in-url": request(LENGTH, first=f"POST http://localhost{CHAT} HTTP/1.1"),
}


@pytest.mark.case("H23")
@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_an_unambiguous_request_is_answered_and_so_is_the_next(server: LiveServer, data: bytes) -> None:
    with server.connect() as wire:
        wire.send(data)
        assert wire.reply().status == 200
        wire.send(SECOND)
        assert wire.reply().status == 200


def test_every_byte_of_a_request_may_come_alone(server: LiveServer) -> None:
    with server.connect() as wire:
        for byte in request("Transfer-Encoding: chunked", body=CHUNKS):
            wire.send(bytes([byte]))
        assert wire.reply().status == 200


@pytest.mark.case("H25")
def test_an_unknown_or_odd_host_is_403(server: LiveServer) -> None:
    for host in ("evil.com", "x/?", "localhost:8000@evil.com"):
        reply = server.exchange(get("/v1/models").replace(b"localhost", host.encode()))
        assert (reply.status, reply.code) == (403, "host_not_allowed")


@pytest.mark.parametrize("path", ["//v1/models", "///health", "//", "/%2fv1/models", "http://localhost//v1/models"])
def test_a_path_with_a_slash_too_many_is_404(server: LiveServer, path: str) -> None:
    """As the document says: a front server that keeps /v1/models for some keeps it by this name."""
    reply = server.exchange(get(path))
    assert (reply.status, reply.code) == (404, "unknown_url")


@pytest.mark.case("A12")
@pytest.mark.parametrize("path", ["/%0d%0aforged", "/%1b[31mred", "/%e2%80%ae", "/%00"])
def test_a_log_line_stays_one_line_of_plain_text(
    server: LiveServer, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level(logging.INFO):
        reply = server.exchange(get(path, "X: \xe9"))
        assert reply.status == 404
        request_id = reply.headers["x-request-id"]
        assert eventually(lambda: request_id in caplog.text)  # the line is written after the response
    lines = [OneLine().format(record) for record in caplog.records if request_id in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert "404" in lines[0]
