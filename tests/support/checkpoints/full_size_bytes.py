"""What a recipe makes of ChatGLM2-6B, from its shapes alone."""

from __future__ import annotations

from collections import Counter

from glm_edge.convert.quantize.recipe import Recipe, Site
from glm_edge.model.ggml import block_size, row_size

# Columns and rows of each kind of tensor, and how many there are.
FULL = {
    "embedding": (4096, 65024, 1),
    "attn_qkv": (4096, 4608, 28),
    "attn_output": (4096, 4096, 28),
    "ffn_up": (4096, 27392, 28),
    "ffn_down": (13696, 4096, 28),
    "output": (4096, 65024, 1),
    "norm": (4096, 1, 57),
    "bias": (4608, 1, 28),
}
HEAD = 1_502_000  # bytes: the vocabulary, mostly


def full_size(recipe: Recipe) -> tuple[int, dict[str, int]]:
    """(bytes of all tensors' data, weights of each type)."""
    size = 0
    used: Counter[str] = Counter()
    for kind, (columns, rows, count) in FULL.items():
        for layer in range(count):
            chosen = recipe.type_of(Site(kind, columns, layer, count, 16), block_size)
            size += row_size(chosen, columns) * rows
            used[chosen] += columns * rows
    return size, dict(used)
