"""llama.cpp's RPC backend: layers of a model on other machines, and the server that computes them there.

It is a library of the portable runtime; a build by pip has none. Its protocol has no key and no encryption. Where a
server is lost, llama.cpp ends the process: the engine's, which the worker starts again.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..errors import StorageError, UnsupportedModelError
from ..types import RpcServer
from . import library  # noqa: F401 - starts llama.cpp
from .kernels import function, of_backend, processor

_CONNECT_S = 5.0
_Add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)  # ggml_backend_rpc_add_server
_Start = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
)  # ggml_backend_rpc_start_server
_added: dict[str, int] = {}  # address -> bytes of memory; ggml keeps its list for the whole process


def add_servers(servers: Iterable[RpcServer]) -> list[int]:
    """Models loaded from here on may use these servers, in this order; returns the memory of each in bytes.

    Raises StorageError for one that cannot be reached, UnsupportedModelError where the runtime has no RPC.
    """
    told = [(_add(server), server.memory) for server in servers]
    return [memory if chosen is None else chosen for memory, chosen in told]


def server(address: str, threads: int) -> Callable[[], None]:
    """What computes for whoever connects to "HOST:PORT" when it is called. It returns only where it cannot listen.

    Raises UnsupportedModelError where the runtime has no RPC.
    """
    begin = _Start(_found(b"ggml_backend_rpc_start_server"))
    return partial(begin, address.encode(), None, threads, 1, (ctypes.c_void_p * 1)(processor()))


def _add(server: RpcServer) -> int:
    if server.address in _added:
        return _added[server.address]
    add = _Add(_found(b"ggml_backend_rpc_add_server"))
    try:  # llama.cpp would end the process
        socket.create_connection((server.host, server.port), _CONNECT_S).close()
    except OSError as error:
        raise StorageError(
            f"the RPC server at {server.address} cannot be reached ({error.strerror or error}); start"
            " glm-edge rpc-server there"
        ) from None
    registry = add(server.address.encode())
    function("ggml_backend_register", None, ctypes.c_void_p)(registry)
    device = function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(registry, 0)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory = function("ggml_backend_dev_memory", None, ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2)
    memory(device, ctypes.byref(free), ctypes.byref(total))
    _added[server.address] = free.value
    return free.value


def _found(name: bytes) -> Any:
    """The address of a function of the RPC library."""
    registry = function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"RPC")
    if not registry:
        raise UnsupportedModelError(
            "the installed llama.cpp has no RPC; install the portable runtime, which `glm-edge runtime` builds"
        )
    return of_backend(registry, name)
