"""Watches the inputs of a model's matrix products while batches are computed, and sums their squares by column.

llama.cpp's scheduler asks before each node of its graph whether its result is wanted, and shows it if it is. Products
with the weights of layers alone are, for a node that is shown ends a piece of the graph. Read of a node are its inputs'
addresses, by struct ggml_tensor (llama.cpp `ggml/include/ggml.h`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .runtime import EvalCallback, Runtime

_DIMS, _PARAMS, _SOURCES, _NAME = 4, 16, 10, 64  # GGML_MAX_DIMS, GGML_MAX_OP_PARAMS / 4, GGML_MAX_SRC, GGML_MAX_NAME
_F32 = 0  # GGML_TYPE_F32


class _Node(ctypes.Structure):
    """struct ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),
        ("nb", ctypes.c_size_t * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * _PARAMS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
    )


class InputSums:
    """Sums of squares of the inputs of every matrix in the layers, by column.

    Args:
        runtime: llama.cpp, all on the processor.
        keep: called with a matrix's name and the inputs of each product with it, shape (tokens, columns).
    """

    def __init__(self, runtime: Runtime, keep: Callable[[str, NDArray[np.float32]], None] | None = None) -> None:
        self._keep = keep
        self.callback = EvalCallback(self._on_node)  # for the context, which must not live longer than this
        self._sums: dict[str, NDArray[np.float32]] = {}
        self._tokens: dict[str, int] = {}
        self._raised: BaseException | None = None
        library = runtime.api.llama_cpp._lib
        self._op_name, self._name_of = library.ggml_op_desc, library.ggml_get_name
        for function in (self._op_name, self._name_of):
            function.restype, function.argtypes = ctypes.c_char_p, (ctypes.c_void_p,)

    @property
    def sums(self) -> Mapping[str, NDArray[np.float32]]:
        """By the matrix's name, each of shape (columns,)."""
        return self._sums

    def check(self, tokens: int) -> None:
        """Call after each batch: raises what was raised meanwhile.

        Args:
            tokens: of all batches so far. Raises EngineError unless every matrix had so many inputs.
        """
        if self._raised is not None:
            raise self._raised
        if not self._sums or set(self._tokens.values()) != {tokens}:
            raise EngineError("llama.cpp did not show the inputs of every product; reinstall llama-cpp-python")

    def _on_node(self, address: int, asking: bool, _: object) -> bool:
        try:
            return self._seen(address, asking)
        except BaseException as error:  # llama.cpp's frames are between here and the caller
            self._raised = self._raised or error
            return False

    def _seen(self, address: int, asking: bool) -> bool:
        if self._op_name(address) != b"MUL_MAT":
            return False
        node = _Node.from_address(address)
        matrix, inputs = _Node.from_address(node.src[0]), _Node.from_address(node.src[1])
        if matrix.name != self._name_of(node.src[0]):
            raise EngineError("this llama.cpp lays its tensors out otherwise; reinstall llama-cpp-python")
        if not matrix.name.startswith(b"blk.") or inputs.type != _F32:
            return False
        if not asking:
            self._add(matrix.name.decode(), inputs)
        return True

    def _add(self, name: str, inputs: Any) -> None:
        values = self._values(inputs)
        found = np.einsum("ij,ij->j", values, values)
        if not np.isfinite(found).all():
            raise EngineError(f"an input of {name} is not a number; is the model damaged? Run glm-edge verify")
        if self._keep is not None:
            self._keep(name, values)
        self._sums[name] = self._sums[name] + found if name in self._sums else found
        self._tokens[name] = self._tokens.get(name, 0) + len(values)

    @staticmethod
    def _values(inputs: Any) -> NDArray[np.float32]:
        """A node's numbers, shape (tokens, columns), where llama.cpp has them."""
        columns, rows, stride = inputs.ne[0], inputs.ne[1], inputs.nb[1] // 4
        flat = np.ctypeslib.as_array(ctypes.cast(inputs.data, ctypes.POINTER(ctypes.c_float)), (rows * stride,))
        return flat.reshape(rows, stride)[:, :columns]
