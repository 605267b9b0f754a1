"""A server that is told to stop under load ends with its exit code and without a traceback, every time.

GLM_EDGE_SHUTDOWNS=100 stops it so many times.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import threading

import pytest

from support.engines.fake_engine import FakeEngine
from support.paths import SUPPORT
from support.server.live_server import BODY, LiveServer, eventually, get, post
from support.server.server_process import Server, run

SHUTDOWNS = int(os.environ.get("GLM_EDGE_SHUTDOWNS", "10"))
REQUESTS = [post({**BODY, "stream": True}), post(BODY), get("/livez"), post(BODY) * 2, get("/metrics"), post(BODY)[:-3]]


def load(server: Server, draw: random.Random, stop: threading.Event, served: list[int]) -> None:
    """Connections that ask, read a little and leave, until the server is gone."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
                sock.sendall(draw.choice(REQUESTS))
                served.append(len(sock.recv(draw.choice([1, 500, 100_000]))))
        except OSError:
            continue


@pytest.mark.case("N21")
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("engine", [(), ("--worker",)], ids=["in-process", "worker"])
def test_a_server_that_stops_under_load_leaves_no_traceback(engine: tuple[str, ...]) -> None:
    for seed in range(SHUTDOWNS // 2):
        draw = random.Random(seed)
        served: list[int] = []
        stop = threading.Event()
        scenario, grace = draw.choice(["quick", "second", "endless"]), draw.choice(["0", "0.2", "1"])
        with run(str(SUPPORT / "server" / "serve_fake_engine.py"), scenario, "--grace", grace, *engine) as server:
            server.said("serving")
            clients = [threading.Thread(target=load, args=(server, random.Random(n), stop, served)) for n in range(12)]
            for client in clients:
                client.start()
            assert eventually(lambda served=served: len(served) > 20)
            server.popen.send_signal(signal.SIGTERM)
            code = server.popen.wait(20)
            stop.set()
            for client in clients:
                client.join()
            said = server.rest()
            assert (code, "Traceback" in said) == (0, False), said


@pytest.mark.case("N21")
def test_a_thread_that_ends_after_the_server_wakes_nobody_and_writes_nowhere() -> None:
    """The pipe that wakes the loop is closed by then, and its number may be another file's."""
    with LiveServer(FakeEngine()) as live:
        pass
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        live.server.wake()
        assert [os.fstat(file.fileno()).st_size for file in (first, second)] == [0, 0]
