"""float16 and bfloat16 to float32, exactly, with the processor's own instruction.

numpy converts some 0.2 billion float16 values a second, which is slower than the 4-bit quantizer. llama.cpp's CPU
library converts 2 to 3 billion. If that library is missing or gives other results, numpy does it. Signatures: llama.cpp
`ggml/include/ggml-cpu.h`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glm_edge.errors import UnsupportedModelError
from glm_edge.model.ggml import library_folder

_FUNCTIONS = {"f16": "ggml_cpu_fp16_to_fp32", "bf16": "ggml_cpu_bf16_to_fp32"}


def to_float32(dtype: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """`values` of type "f16", "bf16" (as uint16) or "f32" as float32, in the same shape; exact, subnormals included."""
    convert = _native(dtype)
    if convert is None or not values.flags.c_contiguous:
        return _portable(dtype, values)
    out = np.empty(values.shape, np.float32)
    convert(values.ctypes.data, out.ctypes.data, values.size)
    return out


def _portable(dtype: str, values: NDArray[Any]) -> NDArray[np.float32]:
    if dtype == "bf16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


@cache
def _native(dtype: str) -> Any:
    """The library's function for the type, if it is right for each of the 65,536 values; else None."""
    library = _library()
    if library is None or dtype not in _FUNCTIONS:
        return None
    convert = getattr(library, _FUNCTIONS[dtype], None)
    if convert is None:
        return None
    convert.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert.restype = None
    every = np.arange(1 << 16, dtype="<u2").view("<f2" if dtype == "f16" else "<u2")
    found = np.empty(every.shape, np.float32)
    convert(every.ctypes.data, found.ctypes.data, every.size)
    return convert if np.array_equal(found, _portable(dtype, every), equal_nan=True) else None


@cache
def _library() -> ctypes.CDLL | None:
    """libggml-cpu, initialised: where the processor lacks the instruction, this makes the table it then uses."""
    name = {"win32": "ggml-cpu.dll", "darwin": "libggml-cpu.dylib"}.get(sys.platform, "libggml-cpu.so")
    try:
        library = ctypes.CDLL(str(library_folder() / name))
        library.ggml_cpu_init.argtypes = ()
        library.ggml_cpu_init.restype = None
        library.ggml_cpu_init()
    except (OSError, AttributeError, UnsupportedModelError):  # a build with other libraries
        return None
    return library
