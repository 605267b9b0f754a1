"""All recipes, as data. No library is loaded here.

Most are llama.cpp's (`src/llama-quant.cpp`, llama_tensor_get_type_impl, with and without an importance matrix), so
that a file made in one pass holds the same tensor bytes as our F16 file put through `llama_model_quantize`. Those named
`edge` are ours. IQ1 is not here.
"""

from __future__ import annotations

from dataclasses import replace

from .quantize.recipe import FALLBACK, LayerRule, Recipe, first, first_part, middle, more_bits

# The output matrix decides the token: llama.cpp gives it 6.6 bits in every file with fewer bits a weight.
_OUTPUT = {"output": (LayerRule("q6_k"),)}
_MORE = (LayerRule("q6_k", more_bits),)
_IQ4 = {
    "attn_qkv": (LayerRule("q5_k", sharing=4),),
    "ffn_down": (LayerRule("q5_k", first_part(8), calibrated=False),),
} | _OUTPUT
# llama.cpp keeps the first of these from a type that an importance matrix makes worse there.
_DOWN_4 = {"ffn_down": (LayerRule("q4_1", first_part(8), calibrated=True),)} | _OUTPUT
_DOWN_5 = {"ffn_down": (LayerRule("q5_1", first_part(8), calibrated=True),)} | _OUTPUT
_SHARED_Q4 = {"attn_qkv": (LayerRule("q4_k", sharing=4),)}
_OUTPUT_Q5 = {"output": (LayerRule("q5_k"),)}
_IQ2_LOW = {
    "embedding": (LayerRule("q2_k"),),
    "attn_qkv": (LayerRule("q4_k", sharing=4), LayerRule("q2_k")),
    "ffn_down": (LayerRule("q2_k", first_part(8)),),
} | _OUTPUT_Q5
_IQ2_HIGH = {
    "embedding": (LayerRule("iq3_s"),),
    "attn_qkv": (LayerRule("q4_k", sharing=4), LayerRule("iq3_s")),
    "attn_output": (LayerRule("iq3_s"),),
    "ffn_down": (LayerRule("iq3_s", first_part(8)),),
} | _OUTPUT_Q5

_LLAMA_CPP = (
    Recipe("f32", 0, 24.98, "no loss from any checkpoint; for measuring", "f32"),
    Recipe("f16", 1, 12.49, "the checkpoint's own precision", "f16"),
    Recipe("bf16", 32, 12.49, "of a bfloat16 checkpoint, without loss", "bf16"),
    Recipe("q8_0", 7, 6.64, "nearly no loss", "q8_0"),
    Recipe("q6_k", 18, 5.50, "very little loss", "q6_k", _OUTPUT),
    Recipe("q5_k_m", 17, 4.71, "little loss", "q5_k", {"attn_qkv": _MORE, "ffn_down": _MORE} | _OUTPUT),
    Recipe("q5_k_s", 16, 4.43, "little loss", "q5_k", _OUTPUT),
    Recipe("q5_1", 9, 4.70, "older than q5_k", "q5_1", _OUTPUT),
    Recipe("q5_0", 8, 4.33, "older than q5_k", "q5_0", _DOWN_5),
    Recipe(
        "q4_k_m",
        15,
        4.14,
        "q4_k with more bits where it matters",
        "q4_k",
        {"attn_qkv": _MORE, "ffn_down": _MORE} | _OUTPUT,
    ),
    Recipe(
        "q4_k_s",
        14,
        3.80,
        "q4_k with a few more bits",
        "q4_k",
        {"attn_qkv": (LayerRule("q5_k", first(4)),), "ffn_down": (LayerRule("q5_k", first_part(8)),)} | _OUTPUT,
    ),
    Recipe("q4_1", 3, 3.96, "older than q4_k", "q4_1", _OUTPUT),
    Recipe("q4_0", 2, 3.58, "fast everywhere, fast to convert", "q4_0", _DOWN_4),
    Recipe("iq4_nl", 25, 3.68, "better than q4_0, slow to convert", "iq4_nl", _IQ4),
    Recipe("iq4_xs", 30, 3.56, "smaller than iq4_nl, slow to convert", "iq4_xs", _IQ4),
    Recipe(
        "q3_k_l",
        13,
        3.55,
        "noticeable loss",
        "q3_k",
        {"attn_qkv": (LayerRule("q5_k"),), "ffn_down": (LayerRule("q5_k"),), "attn_output": (LayerRule("q5_k"),)}
        | _OUTPUT,
    ),
    Recipe(
        "q3_k_m",
        12,
        3.34,
        "noticeable loss",
        "q3_k",
        {
            "attn_qkv": (LayerRule("q5_k", first(2)), LayerRule("q4_k")),
            "ffn_down": (LayerRule("q5_k", first_part(16)), LayerRule("q4_k")),
            "attn_output": (LayerRule("q4_k"),),
        }
        | _OUTPUT,
    ),
    Recipe("q3_k_s", 11, 3.00, "much loss", "q3_k", _OUTPUT),
    Recipe(
        "q2_k",
        10,
        2.72,
        "very much loss",
        "q2_k",
        {
            "attn_qkv": (LayerRule("q4_k", sharing=4), LayerRule("q3_k")),
            "ffn_down": (LayerRule("q3_k"),),
            "attn_output": (LayerRule("q3_k"),),
        }
        | _OUTPUT,
    ),
)

_CALIBRATED = (
    Recipe(
        "iq3_m",
        27,
        3.15,
        "much loss",
        "iq3_s",
        {
            "attn_qkv": (LayerRule("q4_k"),),
            "attn_output": (LayerRule("q4_k"),),
            "ffn_down": (LayerRule("q4_k", first_part(8)),),
        }
        | _OUTPUT,
    ),
    Recipe("iq3_s", 26, 3.07, "much loss", "iq3_s", _SHARED_Q4 | _OUTPUT),
    Recipe(
        "iq3_xs",
        22,
        2.96,
        "much loss",
        "iq3_s",
        _SHARED_Q4 | {"ffn_up": (LayerRule("iq3_xxs", middle),)} | _OUTPUT,
    ),
    Recipe(
        "iq3_xxs",
        23,
        2.89,
        "much loss",
        "iq3_xxs",
        _SHARED_Q4 | {"embedding": (LayerRule("iq3_s"),), "attn_output": (LayerRule("iq3_s"),)} | _OUTPUT_Q5,
    ),
    Recipe(
        "q2_k_s",
        21,
        2.70,
        "very much loss",
        "q2_k",
        _SHARED_Q4 | {"ffn_down": (LayerRule("q4_k", first_part(8)),)} | _OUTPUT,
    ),
    Recipe("iq2_m", 29, 2.69, "very much loss", "iq2_s", _IQ2_HIGH),
    Recipe("iq2_s", 28, 2.59, "very much loss", "iq2_xs", _IQ2_HIGH),
    Recipe("iq2_xs", 20, 2.50, "very much loss", "iq2_xs", _IQ2_LOW),
    Recipe("iq2_xxs", 19, 2.39, "very much loss", "iq2_xxs", _IQ2_LOW),
)

# Where no K-quant fits: 4.5 bits with repacked kernels on x86 and ARM. q5_0 is larger and has no such kernel.
_EDGE_FALLBACK = FALLBACK | {"q4_k": "iq4_nl", "q5_k": "iq4_nl"}

# The first layer loses most: more bits there took away 45 and 35 % of the loss of the two models that were measured.
_FIRST_LAYER = {kind: (LayerRule("q6_k", first(1)),) for kind in ("attn_qkv", "attn_output")}

_OURS = (
    # On x86 (AVX2) only q4_0, q4_k and iq4_nl have repacked kernels, and each takes 4.5 bits. With scales searched for,
    # iq4_nl loses the least of them, fits ffn_down's 13696 columns too, and is the quickest of the last two to make.
    Recipe(
        "edge",
        25,
        3.60,
        "ours: q4_0's size, less loss",
        "iq4_nl",
        _FIRST_LAYER | {"ffn_up": (LayerRule("q5_k", first(1)),), "embedding": (LayerRule("q5_k"),)} | _OUTPUT_Q5,
        searched=True,
    ),
    Recipe(
        "edge-small",
        12,
        3.04,
        "ours: for little memory, about q4_0's loss",
        "q3_k",
        _FIRST_LAYER | {"ffn_up": (LayerRule("q5_k", first(1)),), "embedding": (LayerRule("q4_k"),)} | _OUTPUT_Q5,
        FALLBACK | {"q3_k": "iq4_nl"},
        searched=True,
    ),
    Recipe(
        "edge-plus",
        17,
        4.41,
        "ours: little loss",
        "q5_k",
        _FIRST_LAYER
        | {"ffn_up": (LayerRule("q6_k", first(1)),), "ffn_down": (LayerRule("q8_0", first(1)),)}
        | {"embedding": (LayerRule("q6_k"),)}
        | _OUTPUT,
        FALLBACK | {"q5_k": "q5_0"},
        searched=True,
    ),
    # ARM (dot product) has them for q5_k, q6_k and q8_0 too. The fused queries, keys and values get q5_k: there
    # llama.cpp's mixes put their extra bits.
    Recipe(
        "edge-arm",
        14,
        3.65,
        "ours: q4_k with q5_k attention, for ARM",
        "q4_k",
        {"attn_qkv": (LayerRule("q5_k"),)} | _OUTPUT,
        _EDGE_FALLBACK,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (*_OURS, *_LLAMA_CPP)}
RECIPES |= {recipe.name: replace(recipe, needs_importance=True) for recipe in _CALIBRATED}
# q4_0's size, and less loss. The same on x86 and ARM, so that a checkpoint gives the same file everywhere.
DEFAULT = "edge"
# Short names that llama.cpp's own tool takes for its mixes.
ALIASES = {"q5_k": "q5_k_m", "q4_k": "q4_k_m", "q3_k": "q3_k_m"}


def recipe_of(name: str) -> Recipe | None:
    """The recipe that `--type` names, in lower case."""
    return RECIPES.get(ALIASES.get(name, name))
