"""Reads a finished file back and compares it with what was meant: every key, every tensor's place, samples of its data.

The head is decoded here, by code that shares nothing with the writer's. Samples are quantized again from the source,
which also gives the quantization error. Meant for a file of our own making: it trusts no length blindly, but a reader
for hostile files is another thing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from gguf import GGUFValueType as T

from glm_edge.errors import IntegrityError, StorageError
from glm_edge.model.ggml import TYPE_IDS, dequantize, quantize

from .layout import Layout, Placed

Squares: TypeAlias = tuple[float, float]  # sums of squares of the error and of the weights
SAMPLE_ROWS = 16  # from the start, the middle and the end of every tensor
_SCALARS = {T.UINT32: "I", T.INT32: "i", T.FLOAT32: "f", T.BOOL: "?", T.UINT64: "Q"}


class _Head:
    """A position in the head of a GGUF v3 file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, code: str) -> Any:
        values = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return values[0] if len(values) == 1 else values

    def text(self) -> str:
        size = self.take("Q")
        self._at += size
        if self._at > len(self._data):
            raise struct.error("a text reaches beyond the head")
        return self._data[self._at - size : self._at].decode()

    def value(self, kind: T) -> tuple[Any, T | None]:
        """(value, element type) of a metadata value."""
        if kind == T.STRING:
            return self.text(), None
        if kind != T.ARRAY:
            return self.take(_SCALARS[kind]), None
        item, count = T(self.take("I")), self.take("Q")
        if item == T.STRING:
            return tuple(self.text() for _ in range(count)), item
        start, self._at = self._at, self._at + struct.calcsize(f"<{count}{_SCALARS[item]}")
        return struct.unpack_from(f"<{count}{_SCALARS[item]}", self._data, start), item


def compare(path: Path, layout: Layout) -> dict[str, float]:
    """Compare the file at `path` with its layout and its sources.

    Returns the relative root mean square error of the samples by kind of tensor: the error's over the weights'. Raises
    IntegrityError for the first difference, StorageError when the file cannot be read.
    """
    compare_head(path, layout)
    return relative_errors((placed.tensor.kind, compare_data(path, placed)) for placed in layout.tensors)


def compare_head(path: Path, layout: Layout) -> None:
    """Compare the head and the size of the file at `path` with its layout. Raises as `compare` does."""
    try:
        with open(path, "rb") as file:
            _compare_head(path, file.read(len(layout.head)), layout)
            if (size := file.seek(0, 2)) != layout.size:
                raise IntegrityError(f"{path}: has {size} bytes on the disk where {layout.size} were written")
    except OSError as error:
        raise _unreadable(path, error) from error


def compare_data(path: Path, placed: Placed) -> Squares:
    """Compare samples of a tensor in the file at `path` with its source. Raises as `compare` does."""
    error = weights = 0.0
    try:
        with open(path, "rb") as file:
            for start in _sample_starts(placed.tensor.rows):
                error_part, weights_part = _compare_rows(path, file, placed, start)
                error, weights = error + error_part, weights + weights_part
    except OSError as os_error:
        raise _unreadable(path, os_error) from os_error
    return error, weights


def relative_errors(squares: Iterable[tuple[str, Squares]]) -> dict[str, float]:
    """The relative root mean square error by kind of tensor."""
    sums: dict[str, Squares] = {}
    for kind, (error, weights) in squares:
        before = sums.get(kind, (0.0, 0.0))
        sums[kind] = before[0] + error, before[1] + weights
    return {kind: math.sqrt(error / weights) if weights else 0.0 for kind, (error, weights) in sums.items()}


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be read back: {error.strerror or error}")


def _compare_head(path: Path, data: bytes, layout: Layout) -> None:
    found: dict[str, tuple[T, Any, T | None]] = {}
    try:
        head = _Head(data)
        if (start := head.take("4sI")) != (b"GGUF", 3):
            raise struct.error(f"it starts with {start}")
        n_tensors, n_keys = head.take("2Q")
        for _ in range(n_keys):
            key, kind = head.text(), T(head.take("I"))
            value, item = head.value(kind)
            found[key] = (kind, value, item)
        tensors = [_tensor(head) for _ in range(n_tensors)]
    except (struct.error, ValueError, KeyError) as error:
        raise IntegrityError(f"{path}: its head does not read back: {error}; is the disk failing?") from error
    for key in sorted(found.keys() | layout.metadata.keys()):
        if found.get(key) != tuple(layout.metadata.get(key, ())):
            raise IntegrityError(f"{path}: {key} does not read back as it was written; is the disk failing?")
    expected = [
        (p.tensor.name, tuple(reversed(p.tensor.shape)), TYPE_IDS[p.type], p.offset - len(layout.head))
        for p in layout.tensors
    ]
    if tensors != expected:
        raise IntegrityError(f"{path}: its tensors do not read back as they were written; is the disk failing?")


def _tensor(head: _Head) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape with the length of a row first, type, offset in the data)."""
    name = head.text()
    shape = tuple(head.take("Q") for _ in range(head.take("I")))
    return name, shape, head.take("I"), head.take("Q")


def _sample_starts(rows: int) -> list[int]:
    last = max(0, rows - SAMPLE_ROWS)
    return sorted({0, last // 2, last})


def _compare_rows(path: Path, file: BinaryIO, placed: Placed, start: int) -> Squares:
    """Over one sample."""
    tensor = placed.tensor
    stop = min(tensor.rows, start + SAMPLE_ROWS)
    file.seek(placed.offset + start * placed.row_bytes)
    data = file.read((stop - start) * placed.row_bytes)
    rows = tensor.source.read_rows(start, stop)
    if data != quantize(placed.type, rows).tobytes():
        raise IntegrityError(
            f"{path}: rows {start} to {stop} of {tensor.name} do not read back as they were written; the source changed"
            " meanwhile or the disk is failing"
        )
    found = dequantize(placed.type, np.frombuffer(data, np.uint8).reshape(stop - start, -1), tensor.columns)
    weights = rows.astype(np.float64)
    return float(np.square(weights - found).sum()), float(np.square(weights).sum())
