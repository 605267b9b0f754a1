"""Writes safetensors files, right ones and wrong ones: header and data are put together as told, nothing is checked."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {"float32": "F32", "float16": "F16", "int8": "I8", "int64": "I64"}


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header: Mapping[str, Any] | bytes, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A file of this header and data; `length` is what it says of the header, the truth where not given."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], *, bf16: frozenset[str] = frozenset()) -> None:
    """Write `tensors`; those named in `bf16` hold the bits of bfloat16 values as uint16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        dtype = "BF16" if name in bf16 else _NAMES[value.dtype.name]
        header[name] = entry(dtype, list(value.shape), offset, offset + value.nbytes)
        offset += value.nbytes
    data = b"".join(np.ascontiguousarray(value).tobytes() for value in tensors.values())
    content = json.dumps(header).encode()
    path.write_bytes(file_bytes(content + b" " * (-len(content) % 8), data))
