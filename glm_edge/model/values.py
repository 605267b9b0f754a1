"""The content of a GGUF file: types by number, tensors by name, and arrays that are decoded on access.

Not here: reading and checking (`gguf.py`), and what the keys mean (`checks.py`).
"""

from __future__ import annotations

import struct
from array import array
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import sub
from pathlib import Path
from typing import TypeAlias, overload

# Metadata types by id: name, struct code, bytes. The other two are STRING and ARRAY.
SCALARS = {
    0: ("u8", "B", 1), 1: ("i8", "b", 1), 2: ("u16", "H", 2), 3: ("i16", "h", 2), 4: ("u32", "I", 4),
    5: ("i32", "i", 4), 6: ("f32", "f", 4), 7: ("bool", "?", 1), 10: ("u64", "Q", 8),
    11: ("i64", "q", 8), 12: ("f64", "d", 8),
}  # fmt: skip
STRING, ARRAY = 8, 9


def type_name(type_id: int) -> str:
    """The name of a metadata type: "u32", "str"."""
    return "str" if type_id == STRING else SCALARS[type_id][0]


# Tensor types by id: name, weights in a block, bytes of a block. As in llama.cpp's ggml.h and ggml-common.h in November
# 2026; the ids missing between (4, 5, 31 to 33, 36 to 38) were removed from it.
TENSOR_TYPES = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18), 42: ("q2_0", 64, 18),
}  # fmt: skip


class ScalarArray(Sequence["bool | int | float"]):
    """An array of numbers or bools. `type` is a name in SCALARS."""

    def __init__(self, type_id: int, data: bytes) -> None:
        self.type, self._code, self._size = SCALARS[type_id]
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // self._size

    @overload
    def __getitem__(self, index: int) -> bool | int | float: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[bool | int | float, ...]: ...
    def __getitem__(self, index: int | slice) -> bool | int | float | tuple[bool | int | float, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index] * self._size
        value: bool | int | float = struct.unpack_from(f"<{self._code}", self._data, at)[0]
        return value

    def __iter__(self) -> Iterator[bool | int | float]:
        return iter(struct.unpack(f"<{len(self)}{self._code}", self._data))


class StringArray(Sequence[str]):
    """An array of strings, known to be UTF-8. Its data is as in the file: 8 bytes of length, then the string."""

    type = "str"

    def __init__(self, data: bytes, ends: array[int]) -> None:
        self._data, self._ends = data, ends

    def first_not_utf8(self) -> int | None:
        """The index of the first string that is not UTF-8."""
        decoder = getincrementaldecoder("utf-8")()
        try:
            # A length below 128 is ASCII, so the whole data is valid if and only if each string is.
            if max(map(sub, self._ends, chain([0], self._ends)), default=0) < 8 + 128:
                for at in range(0, len(self._data), 1 << 16):
                    decoder.decode(self._data[at : at + (1 << 16)])
                decoder.decode(b"", final=True)
                return None
        except UnicodeDecodeError:
            pass
        for i in range(len(self)):
            try:
                self[i]
            except UnicodeDecodeError:
                return i
        return None

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        start = self._ends[i - 1] if i else 0
        return self._data[start + 8 : self._ends[i]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield self._data[start + 8 : end].decode()
            start = end


Value: TypeAlias = bool | int | float | str | ScalarArray | StringArray


@dataclass(frozen=True)
class TensorInfo:
    """An entry of the tensor table: a tensor's name, shape and type, and where its bytes are."""

    name: str
    shape: tuple[int, ...]  # ggml's order: shape[0] is the length of a row
    type: int  # a key of TENSOR_TYPES
    offset: int  # from the start of the file
    n_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """The head of a GGUF file whose structure is sound: metadata and tensor table."""

    path: Path
    metadata: Mapping[str, Value]
    types: Mapping[str, str]  # of each key: "u32", "str"; "[i32]" for an array
    tensors: tuple[TensorInfo, ...]
    data_offset: int  # where the tensors' bytes begin
    size: int  # of the whole file, in bytes
