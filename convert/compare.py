"""Reads a finished file back and compares it with what was meant: every key, every tensor's place, samples of its data.

The engine's own reader (`glm_edge/model/gguf.py`) reads the head; it shares nothing with the writer. Samples are
quantized again from the source, which also gives the quantization error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from glm_edge.errors import IntegrityError, InvalidFileError, StorageError
from glm_edge.model.ggml import TYPE_IDS, dequantize
from glm_edge.model.gguf import read_gguf
from glm_edge.model.values import GgufFile, ScalarArray, StringArray, type_name
from glm_edge.system.safe_open import unreadable

from .blocks import encoded
from .layout import Layout, Placed
from .metadata import Value
from .write import OutputFile

Squares: TypeAlias = tuple[float, float]  # sums of squares of the error and of the weights
SAMPLE_ROWS = 16  # from the start, the middle and the end of every tensor


def compare(file: OutputFile, layout: Layout) -> dict[str, float]:
    """Compare the finished file with its layout and its sources.

    Returns the relative root mean square error of the samples by kind of tensor: the error's over the weights'. Raises
    IntegrityError for the first difference, StorageError when the file cannot be read; both name the output.
    """
    compare_head(file, layout)
    return relative_errors((placed.tensor.kind, compare_data(file, placed)) for placed in layout.tensors)


def compare_head(file: OutputFile, layout: Layout) -> None:
    """Compare the head and the size of the finished file with its layout. Raises as `compare` does."""
    path = file.path
    try:
        if (size := file.temporary.stat().st_size) != layout.size:
            raise IntegrityError(f"{path}: has {size} bytes on the disk where {layout.size} were written")
        found = read_gguf(file.temporary)
    except OSError as error:
        raise unreadable(path, error) from error
    except StorageError as error:
        raise StorageError(f"{path}: cannot be read back: {error}") from error
    except InvalidFileError as error:
        raise IntegrityError(f"{path}: its head does not read back: {error}; is the disk failing?") from error
    for key in sorted(found.metadata.keys() | layout.metadata.keys()):
        if not _same(found, key, layout.metadata.get(key)):
            raise IntegrityError(f"{path}: {key} does not read back as it was written; is the disk failing?")
    expected = [(p.tensor.name, p.tensor.shape[::-1], TYPE_IDS[p.type], p.offset) for p in layout.tensors]
    if [(tensor.name, tensor.shape, tensor.type, tensor.offset) for tensor in found.tensors] != expected:
        raise IntegrityError(f"{path}: its tensors do not read back as they were written; is the disk failing?")


def _same(file: GgufFile, key: str, meant: Value | None) -> bool:
    """Whether the file has this key with this type and value."""
    value = file.metadata.get(key)
    if meant is None or value is None:
        return False
    expected = type_name(meant.type) if meant.item is None else f"[{type_name(meant.item)}]"
    plain = tuple(value) if isinstance(value, ScalarArray | StringArray) else value
    return file.types[key] == expected and plain == meant.value


def compare_data(file: OutputFile, placed: Placed) -> Squares:
    """Compare samples of a tensor in the file with its source. Raises as `compare` does."""
    error = weights = 0.0
    try:
        with open(file.temporary, "rb") as content:
            for start in _sample_starts(placed.tensor.rows):
                error_part, weights_part = _compare_rows(file.path, content, placed, start)
                error, weights = error + error_part, weights + weights_part
    except OSError as os_error:
        raise unreadable(file.path, os_error) from os_error
    return error, weights


def relative_errors(squares: Iterable[tuple[str, Squares]]) -> dict[str, float]:
    """The relative root mean square error by kind of tensor."""
    sums: dict[str, Squares] = {}
    for kind, (error, weights) in squares:
        before = sums.get(kind, (0.0, 0.0))
        sums[kind] = before[0] + error, before[1] + weights
    return {kind: math.sqrt(error / weights) if weights else 0.0 for kind, (error, weights) in sums.items()}


def _sample_starts(rows: int) -> list[int]:
    last = max(0, rows - SAMPLE_ROWS)
    return sorted({0, last // 2, last})


def _compare_rows(path: Path, file: BinaryIO, placed: Placed, start: int) -> Squares:
    """Compare the sample of SAMPLE_ROWS rows that begins at row `start`."""
    tensor = placed.tensor
    stop = min(tensor.rows, start + SAMPLE_ROWS)
    file.seek(placed.offset + start * placed.row_bytes)
    data = file.read((stop - start) * placed.row_bytes)
    rows = tensor.source.read_rows(start, stop)
    if data != encoded(placed, start, rows).tobytes():
        raise IntegrityError(
            f"{path}: rows {start} to {stop} of {tensor.name} do not read back as they were written; the source changed"
            " meanwhile or the disk is failing"
        )
    found = dequantize(placed.type, np.frombuffer(data, np.uint8).reshape(stop - start, -1), tensor.columns)
    weights = rows.astype(np.float64)
    return float(np.square(weights - found).sum()), float(np.square(weights).sum())
