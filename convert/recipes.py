"""Which type each kind of tensor gets, as data. Pure: no library is loaded here.

The rules are llama.cpp's (`src/llama-quant.cpp`), so that a file made in one pass holds the same tensor bytes as our
F16 file put through `llama_model_quantize`. Kinds of tensors are listed in `tensors.py`. The named mixes, whose types
depend on the layer, are not here yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A row that the type's block does not divide gets the next type that fits (`tensor_type_fallback`). Every chain ends in
# f16, whose block is one weight.
FALLBACK = {"q6_k": "q8_0", "q8_0": "f16", "q4_0": "f16"}

# One-dimensional tensors stay f32 in every llama.cpp file.
VECTORS = {"norm": "f32", "bias": "f32"}


@dataclass(frozen=True)
class Recipe:
    """A value of `--type`."""

    name: str
    file_type: int  # enum llama_ftype, for general.file_type
    matrices: str  # the type of every 2-D tensor...
    special: Mapping[str, str]  # ...but of these kinds

    def type_of(self, kind: str, columns: int, block_size: Callable[[str], int]) -> str:
        """The type of a tensor of this kind whose rows are `columns` long, fallbacks included."""
        if kind in VECTORS:
            return VECTORS[kind]
        chosen = self.special.get(kind, self.matrices)
        # llama.cpp looks at the output's rows with the block of the file's main type before it prefers q6_k to it.
        if kind == "output" and columns % block_size(self.matrices):
            chosen = "q8_0"
        while columns % block_size(chosen):
            chosen = FALLBACK[chosen]
        return chosen


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", 0, "f32", {}),
        Recipe("f16", 1, "f16", {}),
        Recipe("q8_0", 7, "q8_0", {}),
        # The output matrix decides the token: llama.cpp gives it 6.6 bits in its 4-bit files.
        Recipe("q4_0", 2, "q4_0", {"output": "q6_k"}),
    )
}
