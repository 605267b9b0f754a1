"""Weights rounded as llama.cpp's quantizer rounds them, while the rest of training goes on in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm import ChatGLM


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """What llama.cpp's Q4_0 (bits 4) or Q8_0 (bits 8) makes of a matrix: blocks of 32 along a row, one f16 scale."""
    blocks = weight.reshape(-1, 32)
    if bits == 8:
        scale = (blocks.abs().amax(1, keepdim=True) / 127).half().float()
        return (blocks / scale.clamp_min(1e-12)).round().mul(scale).view_as(weight)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (largest / -8).half().float()
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return ((blocks * inverse + 8.5).floor().clamp(0, 15) - 8).mul(scale).view_as(weight)


class Quantized:
    """While entered, every matrix but the output layer is what the quantizer would make of it (straight-through)."""

    def __init__(self, bits: int, *replicas: ChatGLM) -> None:
        self._bits = bits
        named = [name for name, _ in replicas[0].named_parameters()]
        same = zip(*(replica.parameters() for replica in replicas), strict=True)  # one weight, in every replica
        pairs = zip(named, same, strict=True)
        self._matrices = [weights for name, weights in pairs if weights[0].dim() == 2 and "output_layer" not in name]

    def __enter__(self) -> None:
        self._saved = [weights[0].data for weights in self._matrices]
        if self._bits:
            self._set([fake_quantize(saved, self._bits) for saved in self._saved])

    def __exit__(self, *_: object) -> None:
        self._set(self._saved)

    def _set(self, values: list[Tensor]) -> None:
        for weights, value in zip(self._matrices, values, strict=True):
            for weight in weights:
                weight.data = value
