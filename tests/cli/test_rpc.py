"""`serve --rpc` and `rpc-server`: which layers go, and what is wrong in a line. That they compute: tests/arm."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from glm_edge.cli.rpc_server import command, rpc_servers
from glm_edge.engine.memory_plan import Weights
from glm_edge.engine.remote import split_layers, weights_here
from glm_edge.errors import StorageError
from glm_edge.llama.runtime import NONE_REMOTE
from glm_edge.model.tensors import Sizes, expected_shapes
from glm_edge.model.values import GgufFile, TensorInfo
from glm_edge.types import RpcServer

SIZES = Sizes(hidden=4096, ffn=13696, layers=28, heads=32, groups=2, vocab=65024)
GIB = 1 << 30


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


@pytest.mark.parametrize(
    ("here", "there", "count"),
    [
        (4 * GIB, [4 * GIB], 14),  # half of 28 layers and the output matrix
        (1 * GIB, [4 * GIB, 4 * GIB], 26),
        (1, [100 * GIB], 28),  # one stays, the embedding with it
        (100 * GIB, [1], 1),
    ],
)
def test_layers_are_dealt_out_by_memory(here: int, there: list[int], count: int) -> None:
    remote = split_layers(28, here, there)
    assert (remote.count, remote.shares) == (count, tuple(map(float, there)))


def test_what_goes_away_is_not_counted_here() -> None:
    tensors = [TensorInfo(name, shape, 0, 0, 1000) for name, shape in expected_shapes(SIZES).items()]
    file = GgufFile(Path("x.gguf"), {}, {}, tuple(tensors), 0, 0)
    weights = Weights(file.path, 1000 * len(tensors), 8192, SIZES)
    left = weights_here(weights, file, split_layers(28, GIB, [GIB]))
    assert left.sizes.layers == 15  # keys and values of the others are there, too
    assert left.size == 1000 * (1 + 15 * 7 + 1)  # the embedding, the layers, and a matrix on its way
    assert weights_here(weights, file, NONE_REMOTE) == weights
