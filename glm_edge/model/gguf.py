"""Reads the head of a GGUF v3 file and checks its structure byte by byte, before native code opens it.

It is stricter than llama.cpp where this refuses no real file: names are plain text, counts have limits far above any
real model's, tensors have no empty dimension, and the file ends with the last tensor's padding. It never reads weights,
nor more than 24 MiB; a head with ChatGLM2's vocabulary takes 0.04 s. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
Not here: what the keys mean (`checks.py`), and writing (`head.py`).
"""

from __future__ import annotations

import io
import math
import os
import struct
from array import array
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from ..errors import InvalidFileError
from ..system.safe_open import failed_download, safe_open, unreadable
from .keys import ALIGNMENT
from .values import ARRAY, SCALARS, STRING, TENSOR_TYPES, GgufFile, ScalarArray, StringArray, TensorInfo, Value

# Limits on time and memory for hostile files; the largest chat models need half of these or less.
MAX_HEAD = 24 << 20  # bytes of metadata and tensor table together
MAX_TEXT = 4 << 20  # bytes of keys, names and texts outside of arrays, over the whole file
MAX_KEYS = 4096
MAX_TENSORS = 1 << 14
MAX_STRINGS = 1 << 20  # in arrays, over the whole file
MAX_KEY = 65535  # bytes, by the format's definition
MAX_NAME = 63  # bytes of a tensor's name: GGML_MAX_NAME less its NUL
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 16
STEP = 1 << 20  # bytes asked of the file at a time

# First bytes of files that are mistaken for a GGUF file, and what the error says.
OTHERS = (
    (b"PK\x03\x04", "is a zip file, as PyTorch's shards are; convert its folder with glm-edge convert"),
    (b"ggml", "is in a ggml format that llama.cpp cannot read; convert the checkpoint with glm-edge convert"),
)


def read_gguf(path: Path) -> GgufFile:
    """Read the head of the file at `path`. It never blocks, also not on a pipe or device.

    Raises InvalidFileError, which names the field and its byte offset, for anything but a sound GGUF v3 file, and
    StorageError if the file is missing or cannot be read.
    """
    try:
        with io.BufferedReader(safe_open(path)) as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).read()
    except OSError as error:
        raise unreadable(path, error) from error


class _Reader:
    """The reader of one file: a position in its head, and the bytes read so far."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self.size = size
        self.pos = 0
        self._file = file
        self._head = bytearray()  # what has been read so far, from byte 0
        self._strings_left = MAX_STRINGS
        self._text_left = MAX_TEXT

    def read(self) -> GgufFile:
        self._magic()
        n_tensors = self._count("the tensor count", MAX_TENSORS)
        n_keys = self._count("the key count", MAX_KEYS)
        metadata: dict[str, Value] = {}
        types: dict[str, str] = {}
        alignment = 32  # the format's default
        for i in range(n_keys):
            at = self.pos
            key = self._name(f"key {i} of {n_keys}", MAX_KEY)
            if key in metadata:
                raise self._error(f"key {key!r} is there twice", at)
            at = self.pos + 4
            types[key], metadata[key] = self._value(f"key {key[:64]!r}")
            if key == ALIGNMENT:
                alignment = self._alignment(types[key], metadata[key], at)
        seen: set[str] = set()
        table = [self._tensor(i, n_tensors, seen) for i in range(n_tensors)]
        data_offset = self._padding(alignment) if table or self.size > self.pos else self.pos
        tensors = self._layout(table, data_offset, alignment)
        return GgufFile(self.path, MappingProxyType(metadata), MappingProxyType(types), tensors, data_offset, self.size)

    def _error(self, what: str, at: int) -> InvalidFileError:
        return InvalidFileError(f"{self.path}: {what} (byte {at})")

    def _take(self, n: int, what: str) -> int:
        """Read the next n bytes into memory, step over them, and return where they begin."""
        start, end = self.pos, self.pos + n
        if end > len(self._head):
            self._fill(end, what)
        self.pos = end
        return start

    def _fill(self, end: int, what: str) -> None:
        if end > self.size:
            raise self._error(f"the file ends at byte {self.size}, inside {what}; it is cut off or damaged", self.pos)
        if end > MAX_HEAD:
            raise self._error(f"{what} reaches beyond {MAX_HEAD} bytes, the most that a head may take", self.pos)
        missing = end - len(self._head)
        self._head += self._file.read(min(max(missing, STEP), self.size - len(self._head), MAX_HEAD - len(self._head)))
        if end > len(self._head):
            raise self._error(f"the file became shorter than {self.size} bytes while it was read", len(self._head))

    def _scalar(self, type_id: int, what: str) -> bool | int | float:
        _, code, size = SCALARS[type_id]
        at = self._take(size, what)
        if code == "?" and self._head[at] > 1:
            raise self._error(f"{what} is a bool of {self._head[at]}, must be 0 or 1", at)
        value: bool | int | float = struct.unpack_from(f"<{code}", self._head, at)[0]
        return value

    def _int(self, type_id: int, what: str) -> int:
        return int(self._scalar(type_id, what))

    def _count(self, what: str, limit: int) -> int:
        at = self.pos
        value = self._int(10, what)
        if value > limit:
            raise self._error(f"{what} is {value}, at most {limit} are allowed", at)
        return value

    def _text(self, what: str, limit: int = MAX_TEXT) -> str:
        at = self.pos
        length = self._int(10, f"the length of {what}")
        if length > min(limit, self._text_left):
            raise self._error(f"{what} is {length} bytes long, at most {limit} and {MAX_TEXT} in all are allowed", at)
        self._text_left -= length
        start = self._take(length, what)
        try:
            return self._head[start : self.pos].decode()
        except UnicodeDecodeError as error:
            raise self._error(f"{what} is not UTF-8", start + error.start) from None

    def _name(self, what: str, limit: int) -> str:
        """The name of something. It has no NUL, at which native code would end it and Python would not."""
        at = self.pos
        name = self._text(f"the name of {what}", limit)
        if not (name.isascii() and name.isprintable() and name):
            raise self._error(f"the name of {what} is {name[:64]!r}, must be printable ASCII", at)
        return name

    def _magic(self) -> None:
        start = self._file.read(min(64, self.size))
        others = (what for begin, what in OTHERS if start.startswith(begin))
        if problem := failed_download(start) or next(others, ""):
            raise self._error(problem, 0)
        if start[:4] != b"GGUF":
            raise self._error(f"begins with {start[:4]!r}, not b'GGUF': not a GGUF file", 0)
        self._head += start
        self._take(4, "the magic")
        version = self._int(4, "the version")
        if version == 0x03000000:
            raise self._error("is a big-endian GGUF file; convert the checkpoint again on this machine", 4)
        if version != 3:
            raise self._error(f"is GGUF version {version}, must be 3; convert the checkpoint again", 4)

    def _value(self, what: str) -> tuple[str, Value]:
        """The name of a value's type, and the value."""
        at = self.pos
        type_id = self._int(4, f"the type of {what}")
        if type_id in SCALARS:
            return SCALARS[type_id][0], self._scalar(type_id, what)
        if type_id == STRING:
            return "str", self._text(what)
        if type_id != ARRAY:
            raise self._error(f"{what} has the unknown type {type_id}", at)
        at = self.pos
        element = self._int(4, f"the element type of {what}")
        if element == STRING:
            return "[str]", self._strings(what)
        if element not in SCALARS:  # arrays of arrays too: llama.cpp reads none
            raise self._error(f"{what} is an array of the unknown or nested type {element}", at)
        name, _, size = SCALARS[element]
        start = self._array_start(what, size)
        data = bytes(memoryview(self._head)[start : self.pos])  # one copy, not two
        if name == "bool" and (odd := data.translate(None, b"\0\1")):
            raise self._error(f"{what} holds a bool of {odd[0]}, must be 0 or 1", start + data.index(odd[0]))
        return f"[{name}]", ScalarArray(element, data)

    def _array_start(self, what: str, size: int) -> int:
        """Read the length of an array of elements of `size` bytes, step over it, and return where it begins."""
        at = self.pos
        n = self._int(10, f"the length of {what}")
        if n * size > self.size - self.pos:
            raise self._error(f"{what} is an array of {n}, but the file ends at byte {self.size}", at)
        return self._take(n * size, what)

    def _strings(self, what: str) -> StringArray:
        at = self.pos
        n = self._int(10, f"the length of {what}")
        if n > self._strings_left:
            raise self._error(f"{what} is an array of {n} strings, at most {MAX_STRINGS} are allowed in a file", at)
        self._strings_left -= n
        start, head, ends = self.pos, self._head, array("I")
        length_of = struct.Struct("<Q").unpack_from
        have, end = len(head), start
        for i in range(n):  # without a call for each: vocabularies have tens of thousands
            if end + 8 > have:
                self.pos = end
                self._take(8, f"the length of string {i} of {what}")
                have = len(head)
            (length,) = length_of(head, end)
            end += 8 + length
            if end > have:
                self.pos = end - length
                self._take(length, f"string {i} of {what}")
                have = len(head)
            ends.append(end - start)
        self.pos = end
        strings = StringArray(bytes(memoryview(head)[start:end]), ends)
        if (bad := strings.first_not_utf8()) is not None:
            raise self._error(f"string {bad} of {what} is not UTF-8", start + (ends[bad - 1] if bad else 0))
        return strings

    def _alignment(self, type_name: str, value: Value, at: int) -> int:
        if type_name != "u32" or not isinstance(value, int):
            raise self._error(f"{ALIGNMENT} has the type {type_name}, must be u32", at)
        if value < 8 or value > MAX_ALIGNMENT or value & (value - 1):
            raise self._error(f"{ALIGNMENT} is {value}, must be a power of two from 8 to {MAX_ALIGNMENT}", at)
        return value

    def _tensor(self, i: int, n: int, seen: set[str]) -> tuple[TensorInfo, int]:
        """One entry of the tensor table, with the offset from the start of the data; and where that offset was read."""
        at = self.pos
        name = self._name(f"tensor {i} of {n}", MAX_NAME)
        what = f"tensor {name!r}"
        if name in seen:
            raise self._error(f"{what} is there twice", at)
        seen.add(name)
        at = self.pos
        n_dims = self._int(4, f"the dimension count of {what}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._error(f"{what} has {n_dims} dimensions, must be 1 to {MAX_DIMS}", at)
        at = self.pos
        shape = tuple(self._int(11, f"the shape of {what}") for _ in range(n_dims))
        if min(shape) < 1:
            raise self._error(f"{what} has the shape {shape}, each dimension must be at least 1", at)
        type_at = self.pos
        type_id = self._int(4, f"the type of {what}")
        if type_id not in TENSOR_TYPES:
            raise self._error(f"{what} has the tensor type {type_id}, which is unknown or no longer in use", type_at)
        type_name, block, block_bytes = TENSOR_TYPES[type_id]
        if shape[0] % block:
            raise self._error(f"{what} has rows of {shape[0]}, must be a multiple of {block} for {type_name}", at)
        n_bytes = math.prod(shape) // block * block_bytes
        if n_bytes > self.size:
            raise self._error(f"{what} of shape {shape} takes {n_bytes} bytes, the file has {self.size}", at)
        at = self.pos
        return TensorInfo(name, shape, type_id, self._int(10, f"the offset of {what}"), n_bytes), at

    def _padding(self, alignment: int) -> int:
        """Step over the zeros between the tensor table and the data; return where the data begins."""
        start = self._take(-self.pos % alignment, "the padding before the tensors' data")
        if any(self._head[start : self.pos]):
            raise self._error("the padding before the tensors' data is not zero", start)
        return self.pos

    def _layout(self, table: list[tuple[TensorInfo, int]], data_offset: int, alignment: int) -> tuple[TensorInfo, ...]:
        """The tensors with offsets from the start of the file. They must fill it without gap or overlap."""
        tensors: list[TensorInfo] = []
        end = 0  # of the tensors so far, padded, from the data's start
        for tensor, at in table:
            if tensor.offset != end:
                problem = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
                raise self._error(
                    f"tensor {tensor.name!r} has the offset {tensor.offset}, must be {end}: it {problem}", at
                )
            offset = data_offset + end
            if offset + tensor.n_bytes > self.size:
                raise self._error(
                    f"tensor {tensor.name!r} takes bytes {offset} to {offset + tensor.n_bytes}, but the file ends at"
                    f" byte {self.size}; it is cut off",
                    at,
                )
            tensors.append(TensorInfo(tensor.name, tensor.shape, tensor.type, offset, tensor.n_bytes))
            end += -(-tensor.n_bytes // alignment) * alignment
        if data_offset + end != self.size:
            problem = "it is cut off" if self.size < data_offset + end else "something was added to it"
            raise self._error(f"the file has {self.size} bytes, must have {data_offset + end}: {problem}", data_offset)
        return tuple(tensors)
