"""A safetensors file, read strictly: every rule of the format is checked, and every byte belongs to one tensor.

The format is 8 bytes of length, a JSON header, then the tensors' bytes. Its library is not used: it has no bfloat16 for
numpy, accepts repeated names, and maps the file into memory. The tests compare its verdicts with ours. Format:
https://github.com/huggingface/safetensors, README, "Format". Not here: a checksum; the format has none.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from glm_edge.errors import InvalidFileError

from .files import StableFile, is_plain, parse_json, raise_all, refuse_download_error, shown
from .shard import StoredTensor
from .storage import MAX_DIMENSIONS, NUMPY

MAX_HEADER = 2 << 20  # bytes. The format allows 100 MB; a file with every tensor of ChatGLM2-6B has 25 KB
# The format has more types (8 bits and less, unsigned, complex). No checkpoint of this model has them.
DTYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises InvalidFileError, which lists everything wrong with the tensors, StorageError, IntegrityError.
    """
    file = StableFile.find(path)
    header, start = _read_header(file)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and (
        not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values())
    ):
        _refuse(path, "__metadata__ holds something other than text by name")
    problems: list[str] = []
    found = [_tensor(name, info, file, start, problems) for name, info in header.items()]
    raise_all(path, problems)
    tensors = sorted((tensor for tensor in found if tensor is not None), key=lambda t: (t.offset, t.nbytes))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            kind = "overlaps the tensor before it" if tensor.offset < end else "has a hole before it"
            problems.append(f"{tensor.name} {kind} (begins at {tensor.offset - start}, expected {end - start})")
        end = tensor.offset + tensor.nbytes
    if end != file.size and not problems:
        kind = "is cut short" if end > file.size else "has bytes behind its last tensor"
        problems.append(f"{kind}: its tensors end at byte {end} and the file at {file.size}; download it again")
    raise_all(path, problems)
    return {tensor.name: tensor for tensor in tensors}


def _refuse(path: Path, what: str) -> NoReturn:
    raise InvalidFileError(f"{path}: {what}")


def _read_header(file: StableFile) -> tuple[dict[str, Any], int]:
    """(the header, the offset of the first tensor's bytes)."""
    path, head = file.path, bytes(file.read(0, min(file.size, 512)))
    refuse_download_error(path, head)
    if len(head) < 8:
        _refuse(path, f"cut short: {file.size} bytes, where the header's length alone takes 8")
    (length,) = struct.unpack_from("<Q", head)
    if length > MAX_HEADER:
        _refuse(path, f"not a safetensors file: its header would have {length} bytes, the limit is {MAX_HEADER}")
    if 8 + length > file.size:
        _refuse(path, f"cut short: a header of {length} bytes in a file of {file.size}")
    content = bytes(file.read(8, length))
    if not content.startswith(b"{") or not content.rstrip(b" ").endswith(b"}"):
        _refuse(path, "its header does not begin with { or does not end with } and spaces")
    return parse_json(content, path), 8 + length


def _tensor(name: str, info: object, file: StableFile, start: int, problems: list[str]) -> StoredTensor | None:
    """The tensor that an entry of the header describes. None, with a problem added, if its parts do not fit."""
    try:
        if not is_plain(name):
            raise ValueError("is no name of a tensor")
        dtype, shape, offset = _parts(info)
    except ValueError as error:
        problems.append(f"{name if is_plain(name) else shown(name)} {error}")
        return None
    return StoredTensor(name, shape, dtype, file, start + offset)


def _parts(info: object) -> tuple[str, tuple[int, ...], int]:
    """(our name of the type, shape, offset). Raises ValueError with what is wrong."""
    match info:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if _are_sizes(
            [*shape, begin, end]
        ):
            pass
        case _:
            raise ValueError("lacks a dtype, a shape or data_offsets made of integers from 0 on")
    if dtype not in DTYPES:
        raise ValueError(f"has the dtype {shown(dtype)}, which is not one of {', '.join(DTYPES)}")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if end < begin:
        raise ValueError(f"ends at {end}, before it begins at {begin}")
    size = math.prod(shape) * np.dtype(NUMPY[DTYPES[dtype]]).itemsize
    if size != end - begin:
        raise ValueError(f"has {end - begin} bytes where its shape and dtype make {size}")
    return DTYPES[dtype], tuple(shape), begin


def _are_sizes(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)
