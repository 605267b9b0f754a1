"""Nothing of ours asks for another machine: no name is looked up, no connection made."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkpoints.small_checkpoint import write_checkpoint
from support.server.live_server import BODY, HttpReply, Wire, post

# Loaded by Python itself before anything else; also in the processes that our own start.
HOOK = """
import os, re, sys
def here(address):
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or str(host).startswith(("127.", "/", "localhost")) or host in ("", "::1", "0.0.0.0")
def hook(event, arguments):
    if event == "socket.connect" and not here(arguments[1]):
        os.write(2, b"CONNECTS\\n"); os._exit(99)
    looks_up = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if looks_up and not here(arguments[0]):
        os.write(2, b"LOOKS UP\\n"); os._exit(99)
sys.addaudithook(hook)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(filter(None, [str(tmp_path / "hook"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_the_hook_would_notice(environment: dict[str, str]) -> None:
    for code in ("import socket; socket.getaddrinfo('host.invalid', 80)",
                 "import socket; socket.create_connection(('192.0.2.1', 80))"):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        assert done.returncode == 99


@pytest.mark.case("C5")
@pytest.mark.skipif(os.name != "posix", reason="ends the server with SIGTERM")
def test_convert_verify_and_serve_ask_no_other_machine(tmp_path: Path, environment: dict[str, str]) -> None:
    checkpoint, file = write_checkpoint(tmp_path / "checkpoint"), tmp_path / "model.gguf"
    main = [sys.executable, "-m", "glm_edge"]
    for command in (["convert", str(checkpoint), "--type", "q8_0", "--out", str(file)], ["verify", str(file)]):
        done = subprocess.run([*main, *command], env=environment, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    serve = [*main, "serve", "--model", str(file), "--port", "0", "--threads", "1"]
    with subprocess.Popen(serve, env=environment, stderr=subprocess.PIPE, encoding="utf-8") as server:
        try:
            assert server.stderr is not None
            said = ""
            while not (ready := re.search(r"serving \S+ at http://127\.0\.0\.1:(\d+)", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            assert ask(int(ready[1])).status == 200
            server.send_signal(signal.SIGTERM)
            said += server.stderr.read()
            assert server.wait(20) == 0, said
        finally:
            server.kill()


def ask(port: int) -> HttpReply:
    with Wire(socket.create_connection(("127.0.0.1", port), timeout=60)) as wire:
        wire.send(post({**BODY, "max_tokens": 3}))
        return wire.reply()
