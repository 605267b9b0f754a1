"""A client that leaves costs nothing more, wherever its request is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from glm_edge.api.admission import SPARE_REQUESTS
from support.engines.fake_engine import FakeEngine
from support.server.leaving_clients import fin, half_close, rst
from support.server.live_server import BODY, LiveServer, Wire, eventually, post

STREAM = post({**BODY, "stream": True})
WHOLE = post(BODY)


def freed(server: LiveServer) -> bool:
    return eventually(lambda: server.engine.live == 0 and not server.server.busy)


@pytest.mark.case("K2", "K4", "K5")
@pytest.mark.parametrize("leave", [fin, rst, half_close])
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_a_client_that_leaves_in_prefill_cancels(data: bytes, leave: Callable[[Wire], None]) -> None:
    with LiveServer(FakeEngine([threading.Event()])) as server, server.connect() as wire:
        wire.send(data)
        assert eventually(lambda: len(server.engine.played) == 1)
        leave(wire)
        assert freed(server)
        assert server.engine.generations[0].cancelled


@pytest.mark.case("K3", "K4", "K5")
@pytest.mark.parametrize("leave", [fin, rst, half_close])
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_a_client_that_leaves_in_decode_cancels(data: bytes, leave: Callable[[Wire], None]) -> None:
    script = [step for n in range(2000) for step in (str(n), 0.01)]
    with LiveServer(FakeEngine(script)) as server, server.connect() as wire:
        wire.send(data)
        if data is STREAM:
            wire.head()
            wire.chunk()
            wire.chunk()
        else:
            assert eventually(lambda: len(server.engine.played) == 1)
        leave(wire)
        assert freed(server)
        assert server.engine.generations[0].cancelled


@pytest.mark.case("K1")
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_a_client_that_leaves_the_queue_is_never_computed(data: bytes) -> None:
    go = threading.Event()
    with LiveServer(FakeEngine([go, "x"], slots=1)) as server, server.connect() as first, server.connect() as second:
        first.send(WHOLE)
        assert eventually(lambda: len(server.engine.played) == 1)
        second.send(data)
        assert eventually(lambda: len(server.engine.generations) == 2)
        fin(second)
        assert eventually(lambda: server.engine.generations[1].cancelled)
        go.set()
        assert first.reply().status == 200
        assert freed(server)
        assert len(server.engine.played) == 1


@pytest.mark.case("O1")
def test_requests_in_the_queue_are_served_in_their_order() -> None:
    go = threading.Event()
    with LiveServer(FakeEngine([go, "x"], slots=1)) as server:
        wires = []
        for n in range(5):
            wires.append(server.connect())
            wires[-1].send(post({"messages": [{"role": "user", "content": str(n)}]}))
            assert eventually(lambda n=n: len(server.engine.requests) == n + 1)
        go.set()
        assert [wire.reply().status for wire in wires] == [200] * 5
        assert [request.messages[0].content for request in server.engine.played] == list("01234")
        for wire in wires:
            fin(wire)


@pytest.mark.case("O2")
def test_of_more_clients_than_capacity_each_is_answered_or_refused_at_once() -> None:
    go = threading.Event()
    with LiveServer(FakeEngine([go, "x"], slots=2, waiting=3)) as server:
        wires = [server.connect() for _ in range(40)]
        for wire in wires:
            wire.send(WHOLE)
        assert eventually(lambda: server.engine.live == 5)
        statuses: list[int] = []
        readers = [threading.Thread(target=lambda w=w: statuses.append(w.reply().status)) for w in wires]
        for reader in readers:
            reader.start()
        assert eventually(lambda: len(statuses) == 35)
        assert statuses == [503] * 35
        go.set()
        for reader in readers:
            reader.join()
        assert statuses[35:] == [200] * 5
        for wire in wires:
            fin(wire)


@pytest.mark.case("K7")
def test_clients_that_give_up_and_try_again_never_hold_more_than_the_capacity() -> None:
    engine = FakeEngine([threading.Event()], slots=2, waiting=3)
    most = 0

    def client(server: LiveServer, seed: int) -> None:
        nonlocal most
        for _ in range(3):
            with server.connect() as wire:
                wire.send(STREAM)
                most = max(most, engine.live)
                time.sleep(random.Random(seed).uniform(0.05, 0.2))  # the client's patience

    with LiveServer(engine) as server:
        clients = [threading.Thread(target=client, args=(server, n)) for n in range(20)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        assert freed(server)
        assert 0 < most <= 5
        assert all(generation.cancelled for generation in engine.generations)


@pytest.mark.case("K8")
@pytest.mark.parametrize("read", range(0, 12, 3))
def test_a_client_may_leave_after_any_number_of_events(read: int) -> None:
    script = [step for n in range(10) for step in (str(n), 0.005)]
    with LiveServer(FakeEngine(script, slots=1)) as server:
        for _ in range(5):
            with server.connect() as wire:
                wire.send(STREAM)
                wire.head()
                for _ in range(read):
                    wire.chunk()
        assert freed(server)
        assert server.exchange(WHOLE).json["choices"][0]["message"]["content"] == "0123456789"


@pytest.mark.case("N1")
@pytest.mark.parametrize("leave", [fin, rst, half_close])
def test_a_client_that_leaves_while_its_text_is_tokenized_ends_that(leave: Callable[[Wire], None]) -> None:
    engine = FakeEngine()
    engine.may_tokenize.clear()
    with LiveServer(engine) as server, server.connect() as wire:
        wire.send(post({"text": "x"}, path="/v1/tokenize"))
        assert eventually(lambda: engine.texts == ["x"])
        leave(wire)
        assert eventually(lambda: not engine.texts and not server.server.busy)


@pytest.mark.case("N1")
def test_a_text_to_tokenize_counts_as_a_request() -> None:
    engine = FakeEngine()
    engine.may_tokenize.clear()
    tokenize = post({"text": "x"}, path="/v1/tokenize")
    with LiveServer(engine, capacity=1) as server:
        wires = [server.connect() for _ in range(1 + SPARE_REQUESTS)]
        for wire in wires:
            wire.send(tokenize)
        assert eventually(lambda: len(engine.texts) == len(wires))
        assert server.exchange(tokenize).code == "server_is_overloaded"
        engine.may_tokenize.set()
        assert [wire.reply().json for wire in wires] == [{"ids": [ord("x")]}] * len(wires)
        for wire in wires:
            wire.socket.close()
