"""Clients that leave a real model in a child process, over the wire: nothing goes on for nobody, and every request is
counted once."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from glm_edge.types import EngineConfig
from glm_edge.worker import Worker
from support.checkpoints.small_checkpoint import CONFIG, write_checkpoint
from support.engines import crashing_engines as crashing
from support.server.leaving_clients import fin, half_close, rst
from support.server.live_server import BODY, HttpReply, LiveServer, Wire, eventually, get, post

SLOTS, QUEUE, N_CTX = 2, 3, 16384
# greedy, and as long as the context: what is not cancelled is computed for many seconds
ENDLESS = {**BODY, "temperature": 0}
STREAM = post({**ENDLESS, "stream": True})
WHOLE = post(ENDLESS)
SHORT = post({**ENDLESS, "max_tokens": 10})


def serving(model: Path, queue: int = QUEUE) -> LiveServer:
    config = EngineConfig(model, n_threads=1, n_ctx=N_CTX, kv_type="f32", slots=SLOTS, queue=queue, prompt_lookup=False)
    return LiveServer(Worker(partial(crashing.real, config)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    checkpoint = write_checkpoint(folder / "checkpoint", config={**CONFIG, "seq_length": N_CTX})
    return convert(checkpoint, folder / "model.gguf", type="f32").path


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[LiveServer]:
    with serving(model) as server:
        yield server


@pytest.fixture(scope="module")
def short(server: LiveServer) -> str:
    """What is answered before anything was cancelled."""
    return said(server.exchange(SHORT))


def said(reply: HttpReply) -> str:
    assert reply.status == 200
    return str(reply.json["choices"][0]["message"]["content"])


def metrics(server: LiveServer) -> str:
    return server.exchange(get("/metrics")).body.decode()


def alive(server: LiveServer) -> tuple[int, int]:
    """Requests that the engine works on, and those that wait."""
    found = dict(re.findall(r"^glm_edge_(running|queue) (\d+)", metrics(server), re.MULTILINE))
    return int(found["running"]), int(found["queue"])


def ended(server: LiveServer) -> dict[str, int]:
    """Chats that are over, by how they ended."""
    pattern = r'glm_edge_requests_total\{outcome="(\w+)",path="/v1/chat/completions"\} (\d+)'
    return {outcome: int(n) for outcome, n in re.findall(pattern, metrics(server))}


@pytest.mark.case("K4", "K5")
@pytest.mark.parametrize("leave", [fin, rst, half_close])
@pytest.mark.parametrize("data", [STREAM, WHOLE], ids=["stream", "whole"])
def test_slots_that_clients_leave_are_free(
    server: LiveServer, short: str, data: bytes, leave: Callable[[Wire], None]
) -> None:
    cancelled = ended(server).get("cancelled", 0)
    with ExitStack() as stack:
        wires = [stack.enter_context(server.connect()) for _ in range(SLOTS)]
        for wire in wires:
            wire.send(data)
        assert eventually(lambda: alive(server) == (SLOTS, 0))
        for wire in wires:
            leave(wire)
        assert said(server.exchange(SHORT)) == short
        assert eventually(lambda: ended(server)["cancelled"] == cancelled + SLOTS)
    assert eventually(lambda: alive(server) == (0, 0))


@pytest.mark.case("K7")
def test_clients_that_give_up_and_try_again_hold_no_more_than_the_capacity_and_leave_nothing(
    server: LiveServer, short: str
) -> None:
    def client(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(3):
            with server.connect() as wire:
                wire.send(draw.choice([STREAM, WHOLE]))
                time.sleep(draw.uniform(0.05, 0.3))  # the client's patience

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(20)]
    for one in clients:
        one.start()
    most = 0
    while any(one.is_alive() for one in clients):
        most = max(most, sum(alive(server)))
    assert 0 < most <= SLOTS + QUEUE
    assert eventually(lambda: alive(server) == (0, 0))
    with ThreadPoolExecutor(SLOTS + QUEUE) as pool:  # the whole capacity is free again
        assert [said(reply) for reply in pool.map(server.exchange, [SHORT] * (SLOTS + QUEUE))] == [short] * 5


@pytest.mark.case("K8")
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_of_requests_left_at_any_token_finished_or_failed_each_is_counted_once(model: Path) -> None:
    with serving(model, queue=16) as server:
        for events in range(12):
            with server.connect() as wire:
                wire.send(STREAM)
                assert wire.head().status == 200
                for _ in range(events):
                    assert wire.chunk()
        for _ in range(3):
            assert said(server.exchange(SHORT))
        assert eventually(lambda: alive(server) == (0, 0))  # one that is left unnoticed would die with the engine
        with server.connect() as wire:
            wire.send(STREAM)
            assert wire.head().status == 200
            os.kill(server.engine.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            while wire.chunk():  # to its end, which is none
                pass
        assert eventually(lambda: ended(server) == {"cancelled": 12, "ok": 3, "failed": 1})
