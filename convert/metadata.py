"""The keys of the GGUF file: what llama.cpp's `chatglm` loader reads, the vocabulary, what GLM Edge's runtime needs.

Values depend on nothing but the input: no date, no path, no host, so that the same checkpoint gives the same bytes.
Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp `src/llama-arch.cpp`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gguf import GGUFValueType as T

from glm_edge import __version__

from .recipes import Recipe
from .source.config import ModelConfig
from .tokenizer.template import chat_template
from .tokenizer.vocab import Vocabulary

ARCHITECTURE = "chatglm"
SOURCES = "glm_edge.sources"  # JSON: [name, bytes, SHA-256] of every file that the result is made from
ROPE_BASE = 10000.0  # of the official rotary embedding
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


class Value(NamedTuple):
    """A metadata value as the file stores it: floats already rounded to float32, arrays as tuples."""

    type: T
    value: Any
    item: T | None = None  # element type of an array


def _u32(value: int) -> Value:
    return Value(T.UINT32, value)


def _f32(value: float) -> Value:
    return Value(T.FLOAT32, _round32((value,))[0])


def _round32(values: Sequence[float]) -> tuple[float, ...]:
    return struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))


def _text(value: str) -> Value:
    return Value(T.STRING, value)


def build_metadata(
    config: ModelConfig,
    vocabulary: Vocabulary,
    golden: Iterable[tuple[str, list[int]]],
    recipe: Recipe,
    sources: str,
) -> dict[str, Value]:
    """Every key of the file. `sources` is the value of SOURCES."""
    return {
        "general.architecture": _text(ARCHITECTURE),
        "general.name": _text(config.name),
        "general.file_type": _u32(recipe.file_type),
        "general.quantization_version": _u32(QUANTIZATION_VERSION),
        **_model(config),
        **_tokenizer(vocabulary),
        "glm_edge.version": _text(__version__),
        "glm_edge.recipe": _text(recipe.name),
        "glm_edge.prefix_ids": Value(T.ARRAY, vocabulary.prefix_ids, T.INT32),
        "glm_edge.golden": _text(json.dumps([[text, ids] for text, ids in golden])),
        SOURCES: _text(sources),
    }


def _model(config: ModelConfig) -> dict[str, Value]:
    """Shapes and constants. Rotary pairs are interleaved and cover half a head: llama.cpp's default for `chatglm`."""
    keys = {
        "vocab_size": _u32(config.padded_vocab_size),
        "context_length": _u32(config.seq_length),
        "embedding_length": _u32(config.hidden_size),
        "block_count": _u32(config.num_layers),
        "feed_forward_length": _u32(config.ffn_hidden_size),
        "attention.head_count": _u32(config.num_attention_heads),
        "attention.head_count_kv": _u32(config.multi_query_group_num),
        "attention.key_length": _u32(config.kv_channels),
        "attention.value_length": _u32(config.kv_channels),
        "attention.layer_norm_rms_epsilon": _f32(config.layernorm_epsilon),
        "rope.dimension_count": _u32(config.kv_channels // 2),
        "rope.freq_base": _f32(ROPE_BASE),
    }
    # chatglm2-6b-32k divides positions by rope_ratio. (ChatGLM3 multiplies the base with it, and is refused earlier.)
    if config.rope_ratio != 1:
        keys |= {"rope.scaling.type": _text("linear"), "rope.scaling.factor": _f32(config.rope_ratio)}
    return {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Value]:
    unknown = _u32(vocabulary.id_of("<unk>"))
    keys = {
        "ggml.model": _text("llama"),  # SentencePiece BPE with byte fallback
        "ggml.pre": _text("default"),
        "ggml.tokens": Value(T.ARRAY, vocabulary.texts, T.STRING),
        "ggml.scores": Value(T.ARRAY, _round32(vocabulary.scores), T.FLOAT32),
        "ggml.token_type": Value(T.ARRAY, vocabulary.types, T.INT32),
        "ggml.bos_token_id": _u32(vocabulary.id_of("<s>")),
        "ggml.eos_token_id": _u32(vocabulary.id_of("</s>")),
        "ggml.unknown_token_id": unknown,
        "ggml.padding_token_id": unknown,  # ChatGLM2 pads with <unk>
        "ggml.add_bos_token": Value(T.BOOL, False),
        "ggml.add_eos_token": Value(T.BOOL, False),
        "ggml.add_space_prefix": Value(T.BOOL, vocabulary.model.dummy_prefix),
        "chat_template": _text(chat_template("".join(vocabulary.prefix_texts))),
    }
    return {f"tokenizer.{key}": value for key, value in keys.items()}
