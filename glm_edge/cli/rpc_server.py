"""`glm-edge rpc-server`: this machine computes layers of a model that another one serves.

Also the type of `serve --rpc`, which names such machines.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

import click

from ..api.access.policy import is_loopback
from ..errors import StorageError
from ..types import RpcServer
from .number import ThreadCount

_PORT = 50052  # llama.cpp's own


class RpcServers(click.ParamType):
    """Addresses of RPC servers, with commas between them: HOST:PORT, or HOST:PORT=GIB."""

    name = "servers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[RpcServer, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._server(text.strip(), param, ctx) for text in str(value).split(","))

    def _server(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> RpcServer:
        address, _, gib = text.partition("=")
        host, _, port = address.rpartition(":")
        try:
            server = RpcServer(host, int(port), int(float(gib) * (1 << 30)) if gib else None)
        except (ValueError, OverflowError):
            server = None
        if server is None or not host or not 0 < server.port < 65536 or ((gib or "=" in text) and not server.memory):
            self.fail(f"{text!r} is no HOST:PORT or HOST:PORT=GIB, as 192.168.1.12:{_PORT}=3.5", param, ctx)
        return server


class _Listen(click.ParamType):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is no HOST:PORT, as 127.0.0.1:{_PORT}", param, ctx)
        return host, int(port)


@click.command("rpc-server")
@click.option(
    "--listen",
    type=_Listen(),
    default=f"127.0.0.1:{_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen. Whoever reaches it can do what this process can: use loopback and a tunnel.",
)
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
def command(listen: tuple[str, int], threads: int | None) -> None:
    """Compute layers of a model that `glm-edge serve --rpc` on another machine loads, until Ctrl-C.

    The model's file is there; its layers come over the network when it is loaded, and stay in memory here while that
    server runs. It takes the portable runtime on both machines, in the same version.
    """
    from ..llama.rpc import server
    from ..system.device import processors

    host, port = listen
    _check(host, port)
    n = threads or processors().best
    compute = server(f"{host}:{port}", n)
    if not is_loopback(host):
        click.echo(
            f"warning: {host} can be reached from other machines, and this protocol has no key: whoever connects can"
            " read what is computed here and take over this process; better listen on 127.0.0.1 and use a tunnel",
            err=True,
        )
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    os.dup2(2, 1)  # llama.cpp writes its notes to stdout
    click.echo(f"glm-edge: computing at {host}:{port} with {n} threads, until Ctrl-C", err=True)
    # in a thread: signals are handled between two steps of Python, and the main thread has none inside llama.cpp
    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1)
    raise StorageError(f"--listen {host}:{port}: llama.cpp cannot listen there")


def _check(host: str, port: int) -> None:
    """Raise StorageError where nobody can listen, which llama.cpp says in no error."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise StorageError(
            f"--listen {host}:{port}: {error.strerror or error}; choose another address or port"
        ) from None


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """Leave at once: a connection may be in the middle of a computation, which nothing interrupts."""
    sys.stderr.flush()
    os._exit(0)
