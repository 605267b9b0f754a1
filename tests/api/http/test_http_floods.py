"""Clients that hold a connection, a place or a thread and give nothing for it: they lose it, others are served."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack

import pytest

from glm_edge.api.http.limits import Deadlines
from support.engines.fake_engine import FakeEngine
from support.server.leaving_clients import fin
from support.server.live_server import BODY, LiveServer, Wire, eventually, file_limit, get, post

WHOLE = post(BODY)


FLOODS = {
    "silent": (2000, b""),
    "half-a-header": (2000, b"GET /livez HTTP/1.1\r\nX"),
    "half-a-body": (2000, WHOLE[:-5]),
    "idle": (1500, get("/livez")),
}


@pytest.mark.case("N14")
@pytest.mark.parametrize(("clients", "data"), FLOODS.values(), ids=FLOODS)
def test_connections_without_a_request_make_room_for_those_with_one(clients: int, data: bytes) -> None:
    with file_limit(2 * clients + 300) as files, ExitStack() as stack:
        clients = min(clients, (files - 300) // 2)
        limits = {"deadlines": Deadlines(read=3600, idle=3600), "connections": min(1500, 3 * clients // 4)}
        server = stack.enter_context(LiveServer(FakeEngine(), **limits))
        for _ in range(clients):
            stack.enter_context(server.connect()).send(data)
        assert [server.exchange(one).status for one in (get("/livez"), get("/health"), WHOLE)] == [200] * 3


@pytest.mark.case("N14")
def test_no_connection_with_a_running_answer_makes_room() -> None:
    go = threading.Event()
    with LiveServer(FakeEngine([go, "x"]), connections=12) as server, ExitStack() as stack:
        running = [stack.enter_context(server.connect()) for _ in range(3)]
        for wire in running:
            wire.send(WHOLE)
        assert eventually(lambda: len(server.engine.played) == 3)
        for _ in range(30):
            stack.enter_context(server.connect())
        assert server.exchange(get("/livez")).status == 200
        go.set()
        assert [wire.reply().status for wire in running] == [200] * 3


@pytest.mark.case("N11")
@pytest.mark.parametrize("ahead", [1, 2, 30], ids=lambda n: f"{n}-ahead")
def test_a_client_that_leaves_is_noticed_whatever_it_has_sent_ahead(ahead: int) -> None:
    with LiveServer(FakeEngine([threading.Event()])) as server, server.connect() as wire:
        wire.send(WHOLE * (1 + ahead))
        assert eventually(lambda: len(server.engine.played) == 1)
        fin(wire)
        assert eventually(lambda: server.engine.live == 0 and not server.server.busy)
        assert len(server.engine.played) == 1


@pytest.mark.case("N11")
@pytest.mark.parametrize("data", [WHOLE * 200, WHOLE + post(b" " * 500_000) * 8], ids=["many-requests", "many-bytes"])
def test_a_client_that_sends_too_much_ahead_is_cut_off(data: bytes) -> None:
    with LiveServer(FakeEngine([threading.Event()])) as server, server.connect() as wire:
        try:
            wire.send(data)
        except OSError:
            assert server.server.connections == 0
        assert eventually(lambda: server.server.connections == 0 and server.engine.live == 0)


def drip(wire: Wire, stop: threading.Event) -> None:
    """Take a little now and then, just enough for the system to ask for more, until the connection ends."""
    try:
        while not stop.wait(0.02) and wire.socket.recv(65536):
            pass
    except OSError:
        return


@pytest.mark.case("N13")
def test_a_reader_of_little_now_and_then_does_not_hold_its_place_for_ever() -> None:
    engine = FakeEngine(["x" * 10_000] * 5000)
    stop = threading.Event()
    with LiveServer(engine, deadlines=Deadlines(stalled=3600, delivery=2.5)) as server, server.connect() as wire:
        wire.send(post({**BODY, "stream": True}))
        reader = threading.Thread(target=drip, args=(wire, stop))
        reader.start()
        ended = eventually(lambda: len(server.engine.played) == 1 and not server.server.connections)
        stop.set()
        reader.join()
        assert ended


@pytest.mark.case("N13")
def test_a_client_with_a_request_always_ahead_has_the_whole_time_for_each_answer() -> None:
    """It paces itself: each answer waits for it for 0.4 of the time that one may, three of them for more."""
    most, n = 5.0, 3
    engine = FakeEngine(["x" * 15_000_000])  # more than the system takes
    with LiveServer(engine, deadlines=Deadlines(delivery=most)) as server, server.connect() as wire:
        wire.send(WHOLE * n)
        for _ in range(n):
            assert wire.socket.recv(1, socket.MSG_PEEK)  # it has begun to wait
            time.sleep(0.4 * most)
            reply = wire.reply()
            assert (reply.status, len(reply.body) > 15_000_000) == (200, True)
