"""The quantizer of libggml, called through ctypes: f32 rows in, bytes of a GGUF tensor out, and back.

The library is the one that llama-cpp-python ships, so that the code that runs a file also quantizes it. It is found
without importing llama_cpp. ctypes releases the GIL during a call, so threads work side by side. Signatures: llama.cpp
`ggml/include/ggml.h`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import UnsupportedModelError

from .values import TENSOR_TYPES

RUNTIME_MARKER = "glm_edge_runtime.json"  # beside libraries that `glm-edge runtime` built: from what, by which compiler

# ggml_quantize_requires_imatrix, of those that we offer
NEEDS_IMPORTANCE = frozenset({"iq2_xxs", "iq2_xs"})

TYPE_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def library_folder() -> Path:
    """The folder of llama-cpp-python's libraries. Raises UnsupportedModelError if it is not installed."""
    # llama_cpp obeys the same variable.
    if override := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return Path(override)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedModelError(
            "llama-cpp-python is not installed, and its libggml does the quantizing; pip install llama-cpp-python"
        )
    return Path(spec.submodule_search_locations[0]) / "lib"


@cache
def library() -> ctypes.CDLL:
    """libggml-base, loaded once. Raises UnsupportedModelError if it is missing or cannot be loaded."""
    names = {
        "win32": ("ggml-base.dll", "libggml-base.dll"),
        "darwin": ("libggml-base.dylib", "libggml-base.so"),
    }.get(sys.platform, ("libggml-base.so",))
    folder = library_folder()
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UnsupportedModelError(f"{folder}: no {names[0]}; reinstall llama-cpp-python, 0.3.36 or newer")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UnsupportedModelError(f"{path}: cannot be loaded here: {error}") from error
    library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int,  # type
        ctypes.c_void_p,  # const float * src
        ctypes.c_void_p,  # void * dst
        ctypes.c_int64,  # start, in weights
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # weights a row
        ctypes.c_void_p,  # const float * imatrix
    )
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def block_size(type_name: str) -> int:
    """Weights that share one scale: a row's length must be a multiple of it."""
    return TENSOR_TYPES[TYPE_IDS[type_name]][1]


def row_size(type_name: str, columns: int) -> int:
    """Bytes of one row of `columns` weights, a multiple of the block size."""
    _, block, block_bytes = TENSOR_TYPES[TYPE_IDS[type_name]]
    return columns // block * block_bytes


def quantize(
    type_name: str, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """`rows`, of shape (rows, columns), as bytes of the type, shape (rows, row_size).

    Args:
        importance: of each column, shape (columns,); errors in a column count so much. Types in NEEDS_IMPORTANCE
            cannot do without.

    Raises ValueError unless the block size divides the columns, and for an importance of another shape or none where it
    is needed.
    """
    count, columns = rows.shape
    if columns % block_size(type_name):
        raise ValueError(f"{columns} columns do not divide into {type_name} blocks of {block_size(type_name)}")
    if importance is None and type_name in NEEDS_IMPORTANCE:  # libggml would end the process
        raise ValueError(f"{type_name} needs an importance matrix")
    if importance is not None and importance.shape != (columns,):
        raise ValueError(f"{importance.shape} is the shape of the importance of {columns} columns")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if type_name == "f32":
        return rows.view(np.uint8)
    out = np.empty((count, row_size(type_name, columns)), dtype=np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
    written = library().ggml_quantize_chunk(
        TYPE_IDS[type_name],
        rows.ctypes.data,
        out.ctypes.data,
        0,
        count,
        columns,
        None if importance is None else importance.ctypes.data,
    )
    if written != out.nbytes:
        raise ValueError(f"libggml wrote {written} bytes of {type_name} where {out.nbytes} were due")
    return out


def dequantize(type_name: str, data: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """The weights, shape (rows, columns), of what `quantize` made."""
    data = np.ascontiguousarray(data)
    if type_name == "f32":
        return data.view(np.float32)
    out = np.empty((data.shape[0], columns), dtype=np.float32)
    traits = library().ggml_get_type_traits(TYPE_IDS[type_name]).contents
    traits.to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out
