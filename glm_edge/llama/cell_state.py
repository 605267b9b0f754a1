"""A state of llama.cpp's KV cache, made of keys and values that were not computed by it.

The format is what `llama_state_seq_get_data` writes for one sequence (llama.cpp `src/llama-kv-cache.cpp`, state_write).
It belongs to a version of llama.cpp; `Context.cells` checks it against the one that is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0xAF143CD8  # io_magic in llama-context.cpp
_TYPES = {"f32": (0, "<f4"), "f16": (1, "<f2")}  # ggml's number of the type, and numpy's name


def cell_state(
    keys: Sequence[NDArray[np.float32]],
    values: Sequence[NDArray[np.float32]],
    *,
    kv_type: Literal["f16", "f32"],
    transposed: bool,
    sequence: int,
) -> memoryview:
    """The state of cells at positions 0, 1, … of `sequence`; writable.

    Args:
        keys, values: of each layer, shape (cells, groups x head).
        transposed: whether the cache keeps values by channel and not by cell, as it does without flash attention.
    """
    number, name = _TYPES[kv_type]
    cells, width = keys[0].shape
    parts = [np.array([_MAGIC, sequence, 1, cells], "<u4")]  # the 1 is the number of streams
    each = np.ones((cells, 3), "<i4")  # position, number of sequences, sequence
    each[:, 0], each[:, 2] = np.arange(cells), sequence
    parts += [each, np.array([transposed, len(keys)], "<u4")]
    size = np.dtype(name).itemsize
    row = np.array([width * size], "<u8").view("<u4")  # bytes of a row
    for layer in keys:
        parts += [np.array([number], "<u4"), row, layer.astype(name)]
    for layer in values:
        if transposed:
            parts += [np.array([number, size, width], "<u4"), layer.T.astype(name, order="C")]
        else:
            parts += [np.array([number], "<u4"), row, layer.astype(name)]
    return memoryview(bytearray(b"".join(part.tobytes() for part in parts)))
