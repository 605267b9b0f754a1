"""`serve --rpc` and `rpc-server`: what is wrong with them is said in a line. That they compute: tests/arm."""

from __future__ import annotations

import socket

import click
import pytest
from click.testing import CliRunner

from glm_edge.cli.rpc_server import command, rpc_servers
from glm_edge.errors import StorageError
from glm_edge.types import RpcServer


def test_servers_are_addresses_with_the_memory_to_use_there() -> None:
    found = rpc_servers(None, None, "10.0.0.2:50052, pi.local:7=3.5")
    assert found == (RpcServer("10.0.0.2", 50052), RpcServer("pi.local", 7, int(3.5 * (1 << 30))))


@pytest.mark.parametrize("text", ["", "pi", "pi:", ":7", "pi:0", "pi:70000", "pi:7=", "pi:7=x", "pi:7=0", "pi:7=inf"])
def test_what_is_no_server_is_told(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no HOST:PORT or HOST:PORT=GIB"):
        rpc_servers(None, None, text)


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(command, ["--listen", address])
    assert isinstance(result.exception, StorageError)
    assert "choose another address or port" in str(result.exception)
