"""The bytes of llama.cpp's K-quants q3_k, q4_k, q5_k and q6_k: scales out of a super-block, and a super-block out of
scales and codes. The search for better ones is in `k_search.py`.

A super-block is 256 weights in sub-blocks. In q4_k and q5_k there are 8 of 32, and a weight is d s q - dmin m: q is its
code, s and m the scale and minimum of its sub-block, 6 bits each. In q3_k and q6_k there are 16 of 16, and a weight is
d s q, where s is signed and has 6 and 8 bits. d and dmin are float16. The order of the bits: ggml `src/ggml-common.h`
(block_q4_K and others) and `src/ggml-quants.c` (dequantize_row_q4_K and others).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SUPER_BLOCK = 256  # weights


@dataclass(frozen=True)
class Kind:
    """Numbers of a type of super-block."""

    sub_blocks: int
    codes: tuple[int, int]  # the lowest and the highest
    scales: tuple[int, int]
    minimums: bool


KINDS = {
    "q3_k": Kind(16, (-4, 3), (-32, 31), False),
    "q4_k": Kind(8, (0, 15), (0, 63), True),
    "q5_k": Kind(8, (0, 31), (0, 63), True),
    "q6_k": Kind(16, (-32, 31), (-128, 127), False),
}


@dataclass
class Scales:
    """What super-blocks hold beside the codes, as float32; in a type without minimums, those and dmin are 0."""

    d: Floats  # (super-blocks,)
    scales: Floats  # (sub-blocks, super-blocks), whole numbers
    dmin: Floats
    minimums: Floats


def unpack(type_name: str, blocks: Bytes) -> Scales:
    """The scales of super-blocks, given as (super-blocks, bytes)."""
    if KINDS[type_name].minimums:
        low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
        scales = np.hstack([low & 63, low >> 6 << 4 | high & 15])
        minimums = np.hstack([middle & 63, middle >> 6 << 4 | high >> 4])
        return Scales(_float(blocks[:, :2]), _columns(scales), _float(blocks[:, 2:4]), _columns(minimums))
    if type_name == "q3_k":
        upper = np.hstack([blocks[:, 104:108] >> shift & 3 for shift in (0, 2, 4, 6)])
        scales = (np.hstack([blocks[:, 96:104] & 15, blocks[:, 96:104] >> 4]) | upper << 4).astype(np.int8) - 32
    else:
        scales = blocks[:, 192:208].view(np.int8)
    d = _float(blocks[:, -2:])
    return Scales(d, _columns(scales), np.zeros_like(d), np.zeros((scales.shape[1], len(d)), np.float32))


def pack(type_name: str, scales: Scales, codes: Floats) -> Bytes:
    """Super-blocks, shape (super-blocks, bytes), of these scales and of codes of shape (super-blocks, SUPER_BLOCK)."""
    q = (codes - np.float32(KINDS[type_name].codes[0])).astype(np.uint8)
    s = scales.scales.T.astype(np.int16)
    d = _half(scales.d)
    if type_name == "q6_k":
        return np.hstack([_shared(q & 15, 128, 4), _shared(q >> 4, 128, 2), s.astype(np.uint8), d])
    if type_name == "q3_k":
        s = (s + 32).astype(np.uint8)
        low = _shared(s & 15, 16, 4)
        return np.hstack([_shared(q >> 2, 256, 1), _shared(q & 3, 128, 2), low, _shared(s >> 4, 16, 2), d])
    s, m = s.astype(np.uint8), scales.minimums.T.astype(np.uint8)
    packed = np.hstack([s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | m[:, 4:] << 4])
    fifth = [_shared(q >> 4, 256, 1)] if type_name == "q5_k" else []
    return np.hstack([d, _half(scales.dmin), packed.astype(np.uint8), *fifth, _shared(q & 15, 64, 4)])


def _shared(values: NDArray[np.integer[Any]], run: int, bits: int) -> Bytes:
    """Values of `bits` bits, 8 / bits to a byte: one of each equal part of a run, the first part in the lowest bits."""
    count = 8 // bits
    parts = values.astype(np.uint8).reshape(len(values), -1, count, run // count)
    shared: Bytes = np.bitwise_or.reduce([parts[:, :, i] << bits * i for i in range(count)])
    return shared.reshape(len(values), -1)


def _float(half: Bytes) -> Floats:
    return np.ascontiguousarray(half).view("<f2")[:, 0].astype(np.float32)


def _half(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _columns(values: NDArray[np.generic]) -> Floats:
    return np.ascontiguousarray(values.T, np.float32)


def inverse_of(scale: Floats) -> Floats:
    """1 / scale, and 0 for 0."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
