"""A model on several machines: which of its layers are computed here, and which by RPC servers.

llama.cpp gives the last layers away, the output matrix as one of them; the embedding stays. A layer takes about the
same time wherever it is, so layers are dealt out by memory alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ..llama.runtime import NONE_REMOTE, RemoteLayers
from ..model.values import GgufFile
from ..types import RpcServer
from .memory_plan import Weights

_BESIDES = 640 << 20  # bytes for this program, its buffers and a cache of 8192 tokens, which are not dealt out
_BLOCK = re.compile(r"blk\.(\d+)\.")


def find_remote(servers: Sequence[RpcServer], layers: int, available: int) -> RemoteLayers:
    """The layers for these servers, which must be there. Raises what `rpc.add_servers` does."""
    if not servers:
        return NONE_REMOTE
    from ..llama.rpc import add_servers  # which starts llama.cpp

    return split_layers(layers, max(available - _BESIDES, 0), add_servers(servers))


def split_layers(layers: int, here: int, there: Sequence[int]) -> RemoteLayers:
    """By the bytes of memory for layers here and at each server. At least one stays, and one goes."""
    count = round((layers + 1) * sum(there) / (here + sum(there)))
    return RemoteLayers(min(max(count, 1), layers), tuple(map(float, there)))


def weights_here(weights: Weights, file: GgufFile, remote: RemoteLayers) -> Weights:
    """What is left of a file's weights, and of its cache, on this machine; and the largest that is on its way."""
    if not remote.count:
        return weights
    layers = weights.sizes.layers + 1 - remote.count
    gone = [tensor.n_bytes for tensor in file.tensors if _is_remote(tensor.name, layers)]
    size = weights.size - sum(gone) + max(gone)
    return replace(weights, size=size, sizes=replace(weights.sizes, layers=layers))


def _is_remote(name: str, layers_here: int) -> bool:
    block = _BLOCK.match(name)
    return int(block[1]) >= layers_here if block else name.startswith("output")
