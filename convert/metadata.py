"""The metadata of the GGUF file: a value for each key of `glm_edge/model/keys.py`.

Values depend on the input alone, never on date, path or host, so that the same checkpoint gives the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gguf import GGUFValueType as T

from glm_edge import __version__
from glm_edge.model import keys

from .quantize.recipe import Recipe
from .source.config import ModelConfig
from .tokenizer.template import chat_template
from .tokenizer.vocab import Vocabulary

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
    imatrix: str | None = None,
    gptq: str | None = None,
) -> dict[str, Value]:
    """Every key of the file. `sources`, `imatrix` and `gptq` are values of keys: SOURCES, IMATRIX, GPTQ."""
    return {
        keys.GENERAL_ARCHITECTURE: _text(keys.ARCHITECTURE),
        keys.GENERAL_NAME: _text(config.name),
        keys.FILE_TYPE: _u32(recipe.file_type),
        keys.QUANTIZATION_VERSION: _u32(QUANTIZATION_VERSION),
        **_model(config),
        **_tokenizer(vocabulary),
        keys.VERSION: _text(__version__),
        keys.RECIPE: _text(recipe.name),
        keys.PREFIX_IDS: Value(T.ARRAY, vocabulary.prefix_ids, T.INT32),
        keys.GOLDEN: _text(json.dumps([[text, ids] for text, ids in golden])),
        keys.SOURCES: _text(sources),
        **({} if imatrix is None else {keys.IMATRIX: _text(imatrix)}),
        **({} if gptq is None else {keys.GPTQ: _text(gptq)}),
    }


def _model(config: ModelConfig) -> dict[str, Value]:
    """Shapes and constants. Rotary pairs are interleaved and cover half a head: llama.cpp's default for `chatglm`."""
    shapes = {
        keys.VOCAB_SIZE: _u32(config.padded_vocab_size),
        keys.CONTEXT_LENGTH: _u32(config.seq_length),
        keys.EMBEDDING_LENGTH: _u32(config.hidden_size),
        keys.BLOCK_COUNT: _u32(config.num_layers),
        keys.FEED_FORWARD_LENGTH: _u32(config.ffn_hidden_size),
        keys.HEAD_COUNT: _u32(config.num_attention_heads),
        keys.HEAD_COUNT_KV: _u32(config.multi_query_group_num),
        keys.KEY_LENGTH: _u32(config.kv_channels),
        keys.VALUE_LENGTH: _u32(config.kv_channels),
        keys.NORM_EPSILON: _f32(config.layernorm_epsilon),
        keys.ROPE_DIMENSIONS: _u32(config.kv_channels // 2),
        keys.ROPE_BASE: _f32(ROPE_BASE),
    }
    # chatglm2-6b-32k divides positions by rope_ratio. (ChatGLM3 multiplies the base with it; `config.py` refuses it.)
    if config.rope_ratio != 1:
        shapes |= {keys.ROPE_SCALING: _text("linear"), keys.ROPE_SCALING_FACTOR: _f32(config.rope_ratio)}
    return shapes


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Value]:
    unknown = _u32(vocabulary.id_of("<unk>"))
    return {
        keys.TOKENIZER_MODEL: _text("llama"),  # SentencePiece BPE with byte fallback
        keys.TOKENIZER_PRE: _text("default"),
        keys.TOKENS: Value(T.ARRAY, vocabulary.texts, T.STRING),
        keys.SCORES: Value(T.ARRAY, _round32(vocabulary.scores), T.FLOAT32),
        keys.TOKEN_TYPES: Value(T.ARRAY, vocabulary.types, T.INT32),
        keys.BOS: _u32(vocabulary.id_of("<s>")),
        keys.EOS: _u32(vocabulary.id_of("</s>")),
        keys.UNKNOWN: unknown,
        keys.PADDING: unknown,  # ChatGLM2 pads with <unk>
        keys.ADD_BOS: Value(T.BOOL, False),
        keys.ADD_EOS: Value(T.BOOL, False),
        keys.ADD_SPACE_PREFIX: Value(T.BOOL, vocabulary.model.dummy_prefix),
        keys.CHAT_TEMPLATE: _text(chat_template("".join(vocabulary.prefix_texts))),
    }
