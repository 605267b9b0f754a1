"""Layers on other machines: how many go, and what is left here. The computing itself: tests/arm."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.engine.memory_plan import Weights
from glm_edge.engine.remote import split_layers, weights_here
from glm_edge.llama.runtime import NONE_REMOTE
from glm_edge.model.tensors import Sizes, expected_shapes
from glm_edge.model.values import GgufFile, TensorInfo

SIZES = Sizes(hidden=4096, ffn=13696, layers=28, heads=32, groups=2, vocab=65024)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("here", "there", "count"),
    [
        (4 * GIB, [4 * GIB], 14),  # half of 28 layers and the output matrix
        (1 * GIB, [4 * GIB, 4 * GIB], 26),
        (1, [100 * GIB], 28),  # one stays, the embedding with it
        (100 * GIB, [1], 1),
    ],
)
def test_layers_are_dealt_out_by_memory(here: int, there: list[int], count: int) -> None:
    remote = split_layers(28, here, there)
    assert (remote.count, remote.shares) == (count, tuple(map(float, there)))


def test_what_goes_away_is_not_counted_here() -> None:
    tensors = [TensorInfo(name, shape, 0, 0, 1000) for name, shape in expected_shapes(SIZES).items()]
    file = GgufFile(Path("x.gguf"), {}, {}, tuple(tensors), 0, 0)
    weights = Weights(file.path, 1000 * len(tensors), 8192, SIZES)
    left = weights_here(weights, file, split_layers(28, GIB, [GIB]))
    assert left.sizes.layers == 15  # keys and values of the others are there, too
    assert left.size == 1000 * (1 + 15 * 7)
    assert weights_here(weights, file, NONE_REMOTE) == weights
