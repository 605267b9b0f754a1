"""A state of llama.cpp's KV cache, made of keys and values that were not computed by it.

The format is what `llama_state_seq_get_data` writes for one sequence (llama.cpp `src/llama-kv-cache.cpp`, state_write).
It belongs to a version of llama.cpp; `Context.cells` checks it against the one that is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..model.adapter import Cells

_MAGIC = 0xAF143CD8  # io_magic in llama-context.cpp
_TYPES = {"f32": (0, "<f4"), "f16": (1, "<f2")}  # ggml's number of the type, and numpy's name


def cell_state(
    keys: Sequence[Cells],
    values: Sequence[Cells],
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
    each = np.ones((cells, 3), "<i4")  # position, number of sequences, sequence
    each[:, 0], each[:, 2] = np.arange(cells), sequence
    size = np.dtype(name).itemsize
    row = np.array([number, width * size, 0], "<u4")  # the type, and the bytes of a row as a u64
    head = [np.array([_MAGIC, sequence, 1, cells], "<u4"), each, np.array([transposed, len(keys)], "<u4")]
    layout = np.array([number, size, width], "<u4") if transposed else row
    after = len(keys) * (row.nbytes + layout.nbytes + 2 * cells * width * size)
    state = bytearray(sum(part.nbytes for part in head) + after)  # at once: parts and their join were three copies
    at = 0

    def put(part: NDArray[Any], type: str | None = None) -> None:
        nonlocal at
        into = np.frombuffer(state, type or part.dtype, part.size, at).reshape(part.shape)
        into[:] = part
        at += into.nbytes

    for part in head:
        put(part)
    for layer in keys:
        put(row)
        put(layer, name)
    for layer in values:
        put(layout)
        put(layer.T if transposed else layer, name)
    return memoryview(state)
