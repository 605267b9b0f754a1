"""Checkpoints with weights of 4 or 8 bits and one scale for each row, as THUDM/chatglm2-6b-int4.

A weight NAME is int8 and comes with NAME_scale. With 8 bits a byte is a value. With 4 bits a byte holds the values of
two columns, the even one in its high half and the odd one in its low half, both signed. Weight = value x scale of the
row, which float32 holds exactly. Source: `quantization.py` of that repository, `W8A16Linear`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .files import raise_all
from .shard import StoredTensor
from .storage import FLOATS

SCALE = "_scale"
_HALVES = np.arange(256, dtype=np.uint8).view(np.int8)
# byte -> its two values as one of 8 bytes, so that a row is unpacked by one look-up for each byte
_UNPACKED = np.stack([_HALVES >> 4, (_HALVES << 4) >> 4], axis=1).astype(np.float32).view(np.uint64).reshape(256)


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix of 4 or 8 bits, which reads as one of floats (a SourceTensor)."""

    stored: StoredTensor  # i8, (rows, columns) or (rows, columns / 2)
    scale: StoredTensor  # (rows,)
    bits: int

    dtype = "f32"  # what the values are read as

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.stored.shape
        return rows, columns * 8 // self.bits

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return self.stored, self.scale

    def decode(self, raw: memoryview, start: int) -> NDArray[np.float32]:
        """The weights of the rows from `start` on, whose stored bytes are `raw`. Raises as reading the scale does."""
        values = self.stored.values(raw)
        rows = _UNPACKED[values.view(np.uint8)].view(np.float32) if self.bits == 4 else values.astype(np.float32)
        with np.errstate(all="ignore"):  # `blocks.py` refuses weights that are not finite
            rows *= self.scale.read_rows(0, 1)[0, start : start + len(rows), None]
        return rows

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, shape (stop - start, columns). Raises as `StoredTensor.read_raw`."""
        return self.decode(self.stored.read_raw(start, stop), start)


def dequantized(
    tensors: Mapping[str, StoredTensor], bits: int, where: Path
) -> dict[str, StoredTensor | QuantizedTensor]:
    """The tensors of a checkpoint of `bits` bits, each weight joined with its scale. `where` names the checkpoint.

    Raises InvalidFileError, which lists every weight and scale that do not fit together.
    """
    found: dict[str, StoredTensor | QuantizedTensor] = {}
    problems = []
    for name, tensor in tensors.items():
        scale = tensors.get(name + SCALE)
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in tensors:
                problems.append(f"{name} is there without the weights it scales")
            continue
        if scale is None and tensor.dtype != "i8":
            found[name] = tensor
        elif scale is None:
            problems.append(f"{name} holds i8 and there is no {name}{SCALE}")
        elif tensor.dtype != "i8" or len(tensor.shape) != 2 or not math.prod(tensor.shape):
            problems.append(f"{name} has a scale and is {tensor.dtype} of shape {tensor.shape}, not a matrix of i8")
        elif scale.dtype not in FLOATS or scale.shape != tensor.shape[:1]:
            problems.append(
                f"{name}{SCALE} is {scale.dtype} of shape {scale.shape} and has to be a float for each of"
                f" {tensor.shape[0]} rows"
            )
        else:
            found[name] = QuantizedTensor(tensor, scale, bits)
    raise_all(where, problems)
    return found
