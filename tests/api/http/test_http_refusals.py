"""Refusals where clients come again and again: some are told at once, the others held back, without a thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from glm_edge.api.admission import Admission, RefusalPace
from glm_edge.api.app import create_app
from glm_edge.api.contract.errors import error_response
from glm_edge.api.http.channel import HOLD_BACK
from glm_edge.errors import OverloadedError
from support.engines.engine_requests import ask
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, CHAT, LiveServer, eventually, get, post


def test_refusals_are_told_at_once_as_long_as_they_are_few() -> None:
    now = [0.0]
    pace = RefusalPace(at_once=3, held_s=5.0, clock=lambda: now[0])
    assert [pace.delay() for _ in range(5)] == [0.0, 0.0, 0.0, 5.0, 5.0]
    now[0] += 0.625  # 4 a second
    assert [pace.delay() for _ in range(3)] == [0.0, 0.0, 5.0]
    now[0] += 100
    assert [pace.delay() for _ in range(4)] == [0.0, 0.0, 0.0, 5.0]


@pytest.mark.case("O2")
def test_only_refusals_for_want_of_capacity_are_held_back() -> None:
    held: list[float] = []
    environ: Any = {HOLD_BACK: held.append}
    engine = FakeEngine([threading.Event()], slots=1, waiting=0)
    admission = Admission(engine, refusals=RefusalPace(at_once=1))
    engine.submit(ask("x"))
    client = create_app(admission).test_client()
    assert [client.post(CHAT, json=BODY, environ_overrides=environ).status_code for _ in range(2)] == [503, 503]
    assert held == [0.0, 10.0]
    assert client.post(CHAT, json={}, environ_overrides=environ).status_code == 400
    assert client.get("/health", environ_overrides=environ).status_code == 200
    assert len(held) == 2
    engine.close()


@pytest.mark.case("O2")
def test_others_are_served_while_refusals_are_held_back() -> None:
    engine = FakeEngine([threading.Event()], slots=1, waiting=0)
    with LiveServer(engine, refusals=RefusalPace(at_once=0, held_s=0.5)) as server:
        engine.submit(ask("x"))
        wires = [server.connect() for _ in range(60)]  # more than there are threads
        for wire in wires:
            wire.send(post(BODY))
        assert eventually(lambda: server.server.connections == len(wires))
        assert server.exchange(get("/livez")).status == 200
        for wire in wires:
            with wire:
                reply = wire.reply()
                assert (reply.status, reply.code) == (503, "server_is_overloaded")
                assert reply.complete


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1"), (59.2, "60"), (3600.0, "60")])
def test_a_client_is_told_no_longer_than_openais_clients_heed(seconds: float, said: str) -> None:
    assert error_response(OverloadedError("full", retry_after=seconds), "req_x").headers == (("Retry-After", said),)
