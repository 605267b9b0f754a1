"""The tensors of a ChatGLM2 checkpoint and what they are called in a GGUF file of architecture `chatglm`.

A table of exact names and the shapes that follow from config.json, and the check that a checkpoint holds exactly these.
GGUF names and layouts: llama.cpp `src/models/chatglm.cpp`. No tensor is split, transposed or permuted on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .source.checkpoint import SourceTensor
from .source.config import ModelConfig
from .source.files import raise_all

FLOAT_TYPES = ("f32", "f16", "bf16")

# Source name, GGUF name, kind, shape in terms of `dimensions`. Files hold them in this order.
Row: TypeAlias = tuple[str, str, str, tuple[str, ...]]
BEFORE: tuple[Row, ...] = (
    ("transformer.embedding.word_embeddings.weight", "token_embd.weight", "embedding", ("vocab", "hidden")),
)
LAYER: tuple[Row, ...] = (
    ("input_layernorm.weight", "attn_norm.weight", "norm", ("hidden",)),
    # rows: queries of every head, then keys of every group, then values of every group
    ("self_attention.query_key_value.weight", "attn_qkv.weight", "attn_qkv", ("qkv", "hidden")),
    ("self_attention.query_key_value.bias", "attn_qkv.bias", "bias", ("qkv",)),
    ("self_attention.dense.weight", "attn_output.weight", "attn_output", ("hidden", "hidden")),
    ("post_attention_layernorm.weight", "ffn_norm.weight", "norm", ("hidden",)),
    # rows: gate, then up
    ("mlp.dense_h_to_4h.weight", "ffn_up.weight", "ffn_up", ("gate_and_up", "hidden")),
    ("mlp.dense_4h_to_h.weight", "ffn_down.weight", "ffn_down", ("hidden", "ffn")),
)
AFTER: tuple[Row, ...] = (
    ("transformer.encoder.final_layernorm.weight", "output_norm.weight", "norm", ("hidden",)),
    ("transformer.output_layer.weight", "output.weight", "output", ("vocab", "hidden")),
)
# Computed from the configuration, not learned; llama.cpp computes it as well.
IGNORED = frozenset({"transformer.rotary_pos_emb.inv_freq"})


@dataclass(frozen=True)
class Tensor:
    """A tensor on its way: where it comes from, what it becomes. `shape` is (rows, columns) or (columns,)."""

    source: SourceTensor
    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])


def dimensions(config: ModelConfig) -> dict[str, int]:
    """The lengths that shapes are made of."""
    return {
        "hidden": config.hidden_size,
        "qkv": config.kv_channels * (config.num_attention_heads + 2 * config.multi_query_group_num),
        "ffn": config.ffn_hidden_size,
        "gate_and_up": 2 * config.ffn_hidden_size,
        "vocab": config.padded_vocab_size,
    }


def expected(config: ModelConfig) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """(source name, GGUF name, kind, shape) of every tensor, in file order."""
    rows = [*BEFORE]
    for n in range(config.num_layers):
        rows += [
            (f"transformer.encoder.layers.{n}.{source}", f"blk.{n}.{target}", kind, shape)
            for source, target, kind, shape in LAYER
        ]
    rows += AFTER
    lengths = dimensions(config)
    return [(source, target, kind, tuple(lengths[key] for key in shape)) for source, target, kind, shape in rows]


def map_tensors(config: ModelConfig, sources: Mapping[str, SourceTensor], where: Path) -> list[Tensor]:
    """Every tensor of the model in file order.

    Raises InvalidFileError, with all that does not fit (at most 20 are listed), when a tensor is missing, unknown, of
    another shape or not of floating point. `where` names the checkpoint.
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
        if source.dtype not in FLOAT_TYPES:
            problems.append(f"{name} holds {source.dtype} where weights are f32, f16 or bf16")
    known = {name for name, _, _, _ in table} | IGNORED
    problems += [f"{name} is not a tensor of this model" for name in sorted(set(sources) - known)]
    raise_all(where, problems)
    return [Tensor(sources[source], target, kind, shape) for source, target, kind, shape in table]
