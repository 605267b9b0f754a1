"""A recipe: which type each kind of tensor gets, by rules. The recipes themselves are in `recipes.py`.

The rules follow llama.cpp's (`src/llama-quant.cpp`, llama_tensor_get_type_impl and tensor_type_fallback). Kinds of
tensors are listed in `tensors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

# type -> the type to try next for rows that its block does not divide. Every chain ends in f16, whose block is one
# weight. ChatGLM2-6B's ffn_down has rows of 13696, which blocks of 256 do not divide.
FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
FALLBACK |= dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"), "f16")
FALLBACK |= dict.fromkeys(("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), "iq4_nl")

# One-dimensional tensors stay f32 in every llama.cpp file.
VECTORS = {"norm": "f32", "bias": "f32"}

Layers: TypeAlias = Callable[[int, int], bool]  # of a layer's number and the count of layers


def every(layer: int, layers: int) -> bool:
    """All layers."""
    return True


def first(count: int) -> Layers:
    """The first `count` layers."""
    return lambda layer, layers: layer < count


def first_part(divisor: int) -> Layers:
    """The first 1 / `divisor` of the layers."""
    return lambda layer, layers: layer < layers // divisor


def middle(layer: int, layers: int) -> bool:
    """All but the first and last eighth."""
    return layers // 8 <= layer < 7 * layers // 8


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth and every third between: where llama.cpp's authors measured the most harm."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


@dataclass(frozen=True)
class Site:
    """What the rules know of a tensor."""

    kind: str
    columns: int
    layer: int = 0  # its number among the tensors of this kind...
    layers: int = 1  # ...and their count
    sharing: int = 1  # heads of queries for each head of keys
    calibrated: bool = False  # whether there is an importance matrix


@dataclass(frozen=True)
class LayerRule:
    """A type for the tensors in some layers, if enough heads share keys and values.

    Args:
        calibrated: whether only with an importance matrix, or only without one; None: in both cases.
    """

    type: str
    layers: Layers = every
    sharing: int = 1
    calibrated: bool | None = None

    def holds(self, site: Site) -> bool:
        if self.calibrated not in (None, site.calibrated):
            return False
        return self.layers(site.layer, site.layers) and site.sharing >= self.sharing


@dataclass(frozen=True)
class Recipe:
    """A value of `--type`: the type of every tensor."""

    name: str
    file_type: int  # enum llama_ftype, for general.file_type
    gigabytes: float  # the file of ChatGLM2-6B, 10^9 bytes
    about: str  # one line for the help
    matrices: str  # the type of every 2-D tensor...
    # ...except of these kinds, which get the type of the first rule that holds
    special: Mapping[str, tuple[LayerRule, ...]] = field(default_factory=dict)
    fallback: Mapping[str, str] = field(default_factory=lambda: FALLBACK)
    needs_importance: bool = False  # whether it is offered only with an importance matrix
    searched: bool = False  # whether scales are searched for (quantize/rounding.py); if not, libggml rounds

    def type_of(self, site: Site, block_size: Callable[[str], int]) -> str:
        """The type of the tensor, fallbacks included."""
        if site.kind in VECTORS:
            return VECTORS[site.kind]
        rules = self.special.get(site.kind, ())
        chosen = next((rule.type for rule in rules if rule.holds(site)), self.matrices)
        # llama.cpp compares the output's rows with the block of the file's main type first, then prefers q6_k.
        if site.kind == "output" and site.columns % block_size(self.matrices):
            chosen = "q8_0"
        while site.columns % block_size(chosen):
            chosen = self.fallback[chosen]
        return chosen
