"""What a service manager is told: ready once the model is loaded, stopping once a signal came."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.system.notify import notify
from support.paths import SUPPORT
from support.server.live_server import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd opens it, and its address as NOTIFY_SOCKET has it."""
    address = str(tmp_path / "notify") if request.param == "file" else f"@glm-edge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1))
        sock.settimeout(PATIENCE)
        yield sock, address


def start(scenario: str, address: str) -> subprocess.Popen[bytes]:
    script = SUPPORT / "server" / "serve_fake_engine.py"
    return subprocess.Popen(
        [sys.executable, str(script), scenario], env={**os.environ, "NOTIFY_SOCKET": address}, stderr=subprocess.DEVNULL
    )


def test_ready_is_said_when_the_model_is_loaded_and_stopping_on_a_signal(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    with start("quick", address) as server:
        ready = sock.recv(4096).decode().splitlines()
        assert ready[0] == "READY=1"
        assert ready[1].startswith("STATUS=serving chatglm2-6b at http://127.0.0.1:")
        server.send_signal(signal.SIGTERM)
        assert sock.recv(4096) == b"STOPPING=1"
        assert server.wait(PATIENCE) == 0


def test_a_model_that_fails_is_never_ready(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    with start("spoilt", address) as server:
        assert server.wait(PATIENCE) == 4
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


def test_a_service_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
        notify("READY=1")
        patch.setenv("NOTIFY_SOCKET", "")
        notify("READY=1")
