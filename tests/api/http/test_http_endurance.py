"""A server that is asked much, for long, by clients that come and go, on a clock that jumps.

GLM_EDGE_SOAK=10000 makes the soak so many requests long.
"""

from __future__ import annotations

import gc
import os
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, LiveServer, eventually, get, post

SOAK = int(os.environ.get("GLM_EDGE_SOAK", "400"))
STREAM = post({**BODY, "stream": True})


def held() -> tuple[int, int]:
    """Files that this process has open, and its threads."""
    process = psutil.Process()
    return process.num_fds() if os.name == "posix" else process.num_handles(), process.num_threads()


@pytest.mark.case("A14")
def test_a_thousand_wrong_keys_are_refused_and_the_right_one_is_served() -> None:
    with LiveServer(FakeEngine(), policy=AccessPolicy(Keys(["right"]))) as server, server.connect() as wire:
        wire.send(post(BODY, "API-KEY: right"))
        assert wire.reply().status == 200
        before = psutil.Process().memory_info().rss
        for n in range(1000):
            wire.send(post(BODY, f"Authorization: Bearer guess-{n}"))
            assert wire.reply().code == "invalid_api_key"
            if n % 100 == 0:
                assert server.exchange(post(BODY, "API-KEY: right")).status == 200
        assert psutil.Process().memory_info().rss - before < 8 << 20


@pytest.mark.case("H26")
def test_a_thousand_requests_on_one_connection_hold_nothing() -> None:
    with LiveServer(FakeEngine()) as server, server.connect() as wire:
        wire.send(get("/livez"))
        assert wire.reply().status == 200
        before = held()
        for _ in range(1000):
            wire.send(get("/livez"))
            assert wire.reply().status == 200
        assert held() == before


@pytest.mark.case("O11")
def test_answers_and_cancels_mixed_leave_nothing_behind() -> None:
    draw = random.Random(11)
    steps = [step for n in range(5) for step in (f"{n}", 0.004)]
    engine = FakeEngine(steps, slots=4, waiting=60)
    kinds = [draw.choice(["whole", "stream", "leave", "bad"]) for _ in range(SOAK)]
    pauses = [draw.uniform(0, 0.03) for _ in kinds]

    def client(server: LiveServer, kind: str, pause: float) -> bool:
        if kind == "bad":
            return server.exchange(post({**BODY, "n": 0})).status == 400
        if kind == "leave":
            with server.connect() as wire:
                wire.send(draw.choice([STREAM, post(BODY)]))
                time.sleep(pause)  # the client's patience
            return True
        reply = server.exchange(STREAM if kind == "stream" else post(BODY))
        return reply.status == 200 and reply.complete and b"4" in reply.body

    with LiveServer(engine, capacity=40) as server, ThreadPoolExecutor(12) as pool:
        for part in (slice(0, SOAK // 2), slice(SOAK // 2, SOAK)):
            done = list(pool.map(lambda kind, pause: client(server, kind, pause), kinds[part], pauses[part]))
            assert all(done)
            assert eventually(lambda: engine.live == 0 and not server.server.busy)
            assert eventually(lambda: server.server.connections == 0)
            gc.collect()
            if part.start == 0:  # everything that is made once is made by now
                before, memory = held(), psutil.Process().memory_info().rss
        assert held() == before
        assert psutil.Process().memory_info().rss - memory < 16 << 20
        assert server.exchange(post(BODY)).status == 200  # a slot for everyone is left
        figures = server.exchange(get("/metrics")).body.decode()
    ended = re.findall(r'glm_edge_requests_total\{outcome="(\w+)",path="/v1/chat/completions"\} (\d+)', figures)
    assert sum(int(n) for _, n in ended) == len(kinds) + 1 - _unread(engine, kinds)
    assert {name for name, _ in ended} <= {"ok", "cancelled", "refused"}


def _unread(engine: FakeEngine, kinds: list[str]) -> int:
    """Requests of clients that left before the server had read them."""
    return len(kinds) - kinds.count("bad") + 1 - len(engine.requests)


@pytest.mark.case("O12")
@pytest.mark.parametrize("jump", [86400.0, -86400.0], ids=["a-day-on", "a-day-back"])
def test_a_clock_that_jumps_ends_no_request_and_no_connection(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    go, real = threading.Event(), time.time
    engine = FakeEngine([go, "好"])
    with LiveServer(engine) as server, server.connect() as busy, server.connect() as idle, server.connect() as half:
        idle.send(get("/livez"))
        assert idle.reply().status == 200
        busy.send(STREAM)
        assert busy.head().status == 200
        half.send(STREAM[:40])
        assert eventually(lambda: server.server.connections == 3)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for _ in range(3):  # turns of the loop
            assert server.exchange(get("/livez")).status == 200
        assert not engine.generations[0].cancelled
        idle.send(get("/livez"))
        assert idle.reply().status == 200
        half.send(STREAM[40:])
        assert half.head().status == 200
        go.set()
        for wire in (busy, half):
            assert b"".join(iter(wire.chunk, b"")).endswith(b"data: [DONE]\n\n")
