"""Several servers at addresses of their own, a balancer in front of them, and a client: in a network of their own."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from support.guides import GUIDES
from support.machines.own_network import own_network
from support.paths import SUPPORT
from support.server.live_server import PATIENCE, Wire, eventually, post
from support.server.server_process import Server, run

HOSTS = re.findall(r"^    server \w+\s+([\d.]+):8000$", (GUIDES / "haproxy.cfg").read_text("utf-8"), re.MULTILINE)
CLIENT = "192.168.1.50"
KEY = "a-key-of-the-office"


class Office:
    """The servers that were started, by their addresses, which is also what each answers."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.servers: dict[str, Server] = {}

    def serve(self, *hosts: str, options: tuple[str, ...] = ()) -> None:
        for host in hosts:
            program = str(SUPPORT / "server" / "serve_fake_engine.py")
            command = (program, "quick", "--host", host, "--key", KEY, *options)
            self.servers[host] = self._stack.enter_context(run(*command))
            self.servers[host].said("serving")

    def balance(self, *command: str) -> None:
        process = subprocess.Popen(command, env={**os.environ, "GLM_EDGE_KEY": KEY, "GLM_EDGE_DIGEST": "fa" * 32})
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        assert eventually(_listens)

    def send(self, conversation: str | None = None, **body: Any) -> Wire:
        wire = Wire(socket.create_connection(("127.0.0.1", 8080), timeout=PATIENCE, source_address=(CLIENT, 0)))
        headers = [f"Authorization: Bearer {KEY}", *([f"X-Conversation: {conversation}"] if conversation else [])]
        wire.send(post({"messages": [{"role": "user", "content": "你好"}], **body}, *headers))
        return wire

    def ask(self, conversation: str | None = None, **body: Any) -> str:
        """A whole answer: the address of the server that gave it."""
        with self.send(conversation, **body) as wire:
            reply = wire.reply()
        assert reply.status == 200, reply.body
        return str(reply.json["choices"][0]["message"]["content"])

    def conversation_at(self, host: str) -> str:
        """A conversation that goes to this server."""
        return next(one for n in itertools.count() if self.ask(one := f"conversation-{n}") == host)


@contextmanager
def office(balancer: str, *arguments: str, servers: int, options: tuple[str, ...] = ()) -> Iterator[Office]:
    """Skips the test where the balancer is not installed, or no network can be made.

    Args:
        arguments: of the balancer's command.
        servers: how many of HOSTS are served at first, each with the options.
    """
    if shutil.which(balancer) is None:
        pytest.skip(f"{balancer} is not installed")
    with own_network(*HOSTS, CLIENT), ExitStack() as stack:
        found = Office(stack)
        found.serve(*HOSTS[:servers], options=options)
        found.balance(balancer, *arguments)
        yield found


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 8080)) == 0
