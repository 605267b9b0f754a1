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
from typing import NoReturn

import click

from ..api.access.policy import is_loopback
from ..errors import StorageError
from ..types import RpcServer
from .number import ThreadCount

_PORT = 50052  # llama.cpp's own


def rpc_servers(
    context: click.Context | None, param: click.Parameter | None, value: str | None
) -> tuple[RpcServer, ...]:
    """A callback of click: addresses with commas between them, each HOST:PORT, or HOST:PORT=GIB."""
    return tuple(_server(text.strip(), param) for text in value.split(",")) if value is not None else ()


def _server(text: str, param: click.Parameter | None) -> RpcServer:
    address, equals, gib = text.partition("=")
    try:
        host, port = _host_and_port(address)
        memory = int(float(gib) * (1 << 30)) if equals else None
    except (ValueError, OverflowError):
        host, port, memory = "", 0, 0
    if not host or memory == 0:
        message = f"{text!r} is no HOST:PORT or HOST:PORT=GIB, as 192.168.1.12:{_PORT}=3.5"
        raise click.BadParameter(message, param=param)
    return RpcServer(host, port, memory)


def _listen(context: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    try:
        return _host_and_port(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no HOST:PORT, as 127.0.0.1:{_PORT}", param=param) from None


def _host_and_port(text: str) -> tuple[str, int]:
    """Raises ValueError where it is none."""
    host, _, port = text.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError
    return host, int(port)


@click.command("rpc-server")
@click.option(
    "--listen",
    callback=_listen,
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
