"""Times ggml's products of a quantized matrix with activations, without a model: for predictions of speed.

The weights are whatever bytes lie in the buffer: the time does not depend on their values. They lie in the kind of
buffer that llama.cpp would choose for them (repacked, AMX, ordinary), in matrices of ChatGLM2-6B's width.
Function signatures: llama.cpp `ggml/include/ggml.h`, `ggml-backend.h` and `ggml-alloc.h`.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError, OutOfMemoryError
from .installed import ll
from .library import LOG  # which loads the backends and leaves out broken kernels

_P, _I, _L, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_PROCESSOR = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_F32 = 0  # GGML_TYPE_F32
_WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
_GRAPH = 4096  # nodes of a graph at most
_HEAD = 4 << 20  # bytes for the descriptions of tensors and of a graph
_ALIGNMENT = 64  # bytes; the largest that a kind of buffer asks for


class _InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", _S), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True)
class Matrix:
    """The shape and type of a matrix of weights. `type` is ggml's number of it."""

    type: int
    columns: int
    rows: int


class Products:
    """A buffer of weights and the backend that multiplies with them.

    Args:
        kind: the kind of buffer, as `kind_of` tells it.
        size: bytes of weights. They should be several times the processor's caches.

        clock: seconds; the processor's own where other programs are not to count.

    Raises OutOfMemoryError when the buffer cannot be had.
    """

    def __init__(self, kind: int, size: int, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._backend = _call("ggml_backend_dev_init", _P, (_P, _device()), (ctypes.c_char_p, None))
        set_threads = _found("ggml_backend_set_n_threads", None, _P, _I)
        set_threads(self._backend, threads)
        self._size, self._next = size, 0
        self._buffer = _call("ggml_backend_buft_alloc_buffer", _P, (_P, kind), (_S, size))
        if not self._buffer:
            raise OutOfMemoryError(f"no memory for a buffer of {size >> 20} MiB")
        _call("ggml_backend_buffer_set_usage", None, (_P, self._buffer), (_I, _WEIGHTS))
        self._base: int = _call("ggml_backend_buffer_get_base", _P, (_P, self._buffer))
        ctypes.memset(self._base, 0x2D, size)  # touched, and neither infinite nor denormal in any type

    def seconds_per_weight(self, matrix: Matrix, tokens: int, *, size: int) -> float:
        """Seconds a weight takes, on average over a graph of about `size` bytes of such matrices.

        Each call takes the next part of the buffer, so that the weights come from memory and not out of a cache.

        Args:
            tokens: columns of the activations; 1 is decode.
        """
        with _context() as context:
            graph = _call("ggml_new_graph_custom", _P, (_P, context), (_S, _GRAPH), (ctypes.c_bool, False))
            x = _tensor(context, _F32, matrix.columns, tokens)
            each = self._bytes_of(_tensor(context, matrix.type, matrix.columns, matrix.rows))
            count = max(1, min(size, self._size) // each)
            if count * each > self._size:
                raise OutOfMemoryError(f"a matrix of {each >> 20} MiB does not fit the buffer")
            if self._next + count * each > self._size:
                self._next = 0
            for _ in range(count):
                weights = _tensor(context, matrix.type, matrix.columns, matrix.rows)
                at = self._base + self._next
                _call("ggml_backend_tensor_alloc", _I, (_P, self._buffer), (_P, weights), (_P, at))
                self._next += each
                product = _call("ggml_mul_mat", _P, (_P, context), (_P, weights), (_P, x))
                _call("ggml_build_forward_expand", None, (_P, graph), (_P, product))
            rest = _call("ggml_backend_alloc_ctx_tensors", _P, (_P, context), (_P, self._backend))
            try:
                seconds = self._compute(graph)
            finally:
                _call("ggml_backend_buffer_free", None, (_P, rest))
        return seconds / (count * matrix.columns * matrix.rows)

    def _bytes_of(self, weights: int) -> int:
        """What a matrix takes in this kind of buffer."""
        kind = _call("ggml_backend_buffer_get_type", _P, (_P, self._buffer))
        size: int = _call("ggml_backend_buft_get_alloc_size", _S, (_P, kind), (_P, weights))
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def _compute(self, graph: int) -> float:
        began = self._clock()
        if code := _call("ggml_backend_graph_compute", _I, (_P, self._backend), (_P, graph)):
            raise EngineError(f"ggml failed to multiply, code {code}{LOG.excerpt}")
        return self._clock() - began

    def close(self) -> None:
        if self._buffer:
            _call("ggml_backend_buffer_free", None, (_P, self._buffer))
            _call("ggml_backend_free", None, (_P, self._backend))
            self._buffer = None


def kind_of(matrix: Matrix, *, repack: bool) -> tuple[int, str]:
    """The kind of buffer that llama.cpp puts such weights in, and its name: "CPU_REPACK", "AMX", "CPU"."""
    ordinary: int = _call("ggml_backend_dev_buffer_type", _P, (_P, _device()))
    for kind in (*(_special_kinds() if repack else ()), ordinary):
        if kind == ordinary or _takes(kind, matrix):
            return kind, _call("ggml_backend_buft_name", ctypes.c_char_p, (_P, kind)).decode()
    raise AssertionError  # the ordinary one takes all


def _takes(kind: int, matrix: Matrix) -> bool:
    """As llama.cpp asks (`llama-model-loader.cpp`, weight_buft_supported): with a buffer of no bytes."""
    with _context() as context:
        weights = _tensor(context, matrix.type, matrix.columns, matrix.rows)
        product = _call(
            "ggml_mul_mat", _P, (_P, context), (_P, weights), (_P, _tensor(context, _F32, matrix.columns, 512))
        )
        buffer = _call("ggml_backend_buft_alloc_buffer", _P, (_P, kind), (_S, 0))
        _buffer_of(weights).value = buffer
        try:
            return bool(_call("ggml_backend_dev_supports_op", ctypes.c_bool, (_P, _device()), (_P, product)))
        finally:
            _buffer_of(weights).value = None
            _call("ggml_backend_buffer_free", None, (_P, buffer))


def _buffer_of(tensor: int) -> ctypes.c_void_p:
    """The field `buffer` of struct ggml_tensor: after an int, on a machine of 64 bits."""
    return ctypes.c_void_p.from_address(tensor + 8)


def _special_kinds() -> Iterator[int]:
    getter = _found("ggml_backend_dev_get_extra_bufts", ctypes.POINTER(_P), _P)
    kinds = getter(_device()) if getter else None
    i = 0
    while kinds and kinds[i]:
        yield kinds[i]
        i += 1


def _device() -> int:
    device: int | None = _call("ggml_backend_dev_by_type", _P, (_I, _PROCESSOR))
    if not device:
        raise EngineError("llama.cpp has no backend for this processor")
    return device


def _found(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the processor's backend that only its registry knows."""
    registry = _call("ggml_backend_dev_backend_reg", _P, (_P, _device()))
    address = _call("ggml_backend_reg_get_proc_address", _P, (_P, registry), (ctypes.c_char_p, name.encode()))
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


@contextmanager
def _context() -> Iterator[int]:
    params = _InitParams(_HEAD, None, True)
    context: int = _call("ggml_init", _P, (_InitParams, params))
    try:
        yield context
    finally:
        _call("ggml_free", None, (_P, context))


def _tensor(context: int, type_id: int, columns: int, rows: int) -> int:
    tensor: int = _call("ggml_new_tensor_2d", _P, (_P, context), (_I, type_id), (_L, columns), (_L, rows))
    return tensor


def _call(name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
    """A function of libggml, each argument with its type; libllama's handle finds the copy that libllama uses."""
    function = getattr(ll.llama_cpp._lib, name)
    function.restype, function.argtypes = result, tuple(kind for kind, _ in arguments)
    return function(*(value for _, value in arguments))
