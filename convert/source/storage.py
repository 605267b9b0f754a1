"""The storages and tensors that a pickle of torch describes: a tensor is a range of a storage's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_DIMENSIONS = 8

# torch's storage class -> (our name of the type, how numpy reads it). numpy has no bfloat16: half of a float32's bits.
STORAGES = {
    "DoubleStorage": ("f64", "<f8"),
    "FloatStorage": ("f32", "<f4"),
    "HalfStorage": ("f16", "<f2"),
    "BFloat16Storage": ("bf16", "<u2"),
    "LongStorage": ("i64", "<i8"),
    "IntStorage": ("i32", "<i4"),
    "ShortStorage": ("i16", "<i2"),
    "CharStorage": ("i8", "<i1"),
    "ByteStorage": ("u8", "<u1"),
    "BoolStorage": ("bool", "<u1"),
}
NUMPY = dict(STORAGES.values())
FLOATS = ("f32", "f16", "bf16")  # what weights may be stored as


@dataclass(frozen=True)
class Storage:
    """A run of values in the archive: its member is `data/<key>`."""

    key: str
    dtype: str
    length: int  # values

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return np.dtype(NUMPY[self.dtype]).itemsize


@dataclass(frozen=True)
class PickledTensor:
    """A contiguous tensor whose first value is the storage's value number `offset`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


def place(storage: Storage, offset: object, shape: Sequence[object], strides: Sequence[object]) -> PickledTensor:
    """The tensor. Raises ValueError unless it is contiguous (last dimension fastest) and within its storage."""
    if max(len(shape), len(strides)) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    start, *numbers = (_size(value) for value in (offset, *shape, *strides))
    sizes, steps = tuple(numbers[: len(shape)]), tuple(numbers[len(shape) :])
    if 0 in sizes:
        raise ValueError(f"a tensor of shape {sizes}, which has no values")
    packed = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    # The step of a dimension of one value is never taken.
    if len(steps) != len(sizes) or any(
        size > 1 and step != wanted for size, step, wanted in zip(sizes, steps, packed, strict=True)
    ):
        raise ValueError(f"a tensor of shape {sizes} with strides {steps} is not contiguous; save its .contiguous()")
    if start + math.prod(sizes) > storage.length:
        raise ValueError(f"a tensor of shape {sizes} at {start} goes beyond its storage of {storage.length} values")
    return PickledTensor(storage, start, sizes)


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a tensor whose shape, strides or offset are not integers from 0 on")
    return value
