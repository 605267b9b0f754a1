"""The tensors of a ChatGLM2 checkpoint, and which tensor of the GGUF file each becomes.

Source names are paired here with the GGUF names of `glm_edge/model/tensors.py`, which has the shapes. `map_tensors`
checks that a checkpoint holds exactly these. No tensor is split, transposed or permuted on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from glm_edge.model.tensors import Sizes, expected_shapes

from .source.checkpoint import SourceTensor
from .source.config import ModelConfig
from .source.files import raise_all
from .source.storage import FLOATS

# GGUF name -> source name and kind. A recipe chooses the type by the kind.
OUTSIDE = {
    "token_embd.weight": ("transformer.embedding.word_embeddings.weight", "embedding"),
    "output_norm.weight": ("transformer.encoder.final_layernorm.weight", "norm"),
    "output.weight": ("transformer.output_layer.weight", "output"),
}
# The same behind "blk.N." and "transformer.encoder.layers.N.".
LAYER = {
    "attn_norm.weight": ("input_layernorm.weight", "norm"),
    "attn_qkv.weight": ("self_attention.query_key_value.weight", "attn_qkv"),
    "attn_qkv.bias": ("self_attention.query_key_value.bias", "bias"),
    "attn_output.weight": ("self_attention.dense.weight", "attn_output"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "norm"),
    "ffn_up.weight": ("mlp.dense_h_to_4h.weight", "ffn_up"),
    "ffn_down.weight": ("mlp.dense_4h_to_h.weight", "ffn_down"),
}
# Not learned: llama.cpp computes it from the metadata.
IGNORED = frozenset({"transformer.rotary_pos_emb.inv_freq"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of the result and the tensor of the checkpoint that it is made from."""

    source: SourceTensor
    name: str  # in the GGUF file
    kind: str
    shape: tuple[int, ...]  # (rows, columns) or (columns,)

    @property
    def columns(self) -> int:
        """Weights of a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """1 for a vector."""
        return math.prod(self.shape[:-1])


class Expected(NamedTuple):
    """A row of the table for one model."""

    source: str
    name: str  # in the GGUF file
    kind: str
    shape: tuple[int, ...]  # torch's order: the length of a row last


def expected(config: ModelConfig) -> list[Expected]:
    """Every tensor that the checkpoint must have, in the order of the GGUF file."""
    sizes = Sizes(
        hidden=config.hidden_size,
        ffn=config.ffn_hidden_size,
        layers=config.num_layers,
        heads=config.num_attention_heads,
        groups=config.multi_query_group_num,
        vocab=config.padded_vocab_size,
    )
    table = []
    for name, shape in expected_shapes(sizes).items():
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            source, kind = LAYER[rest]
            source = f"transformer.encoder.layers.{layer}.{source}"
        else:
            source, kind = OUTSIDE[name]
        table.append(Expected(source, name, kind, shape[::-1]))
    return table


def map_tensors(config: ModelConfig, sources: Mapping[str, SourceTensor], where: Path) -> list[Tensor]:
    """Pair every tensor of the GGUF file, in its order, with one of `sources`. `where` names the checkpoint in errors.

    Raises InvalidFileError when a tensor is missing, unknown, of another shape or not of floating point. The error
    lists all of these problems, at most 20 in full.
    """
    table = expected(config)
    problems = []
    for name, _, _, shape in table:
        if name not in sources:
            problems.append(f"{name} is missing")
            continue
        source = sources[name]
        if tuple(source.shape) != shape:
            problems.append(f"{name} has shape {tuple(source.shape)} where config.json makes it {shape}")
        if source.dtype not in FLOATS:
            problems.append(f"{name} holds {source.dtype} where weights are f32, f16 or bf16")
    known = {row.source for row in table} | IGNORED
    problems += [f"{name} is not a tensor of this model" for name in sorted(set(sources) - known)]
    raise_all(where, problems)
    return [Tensor(sources[row.source], row.name, row.kind, row.shape) for row in table]
