"""A ChatGLM2 checkpoint of a few hundred kilobytes, made on the spot: what conversion tests start from and damage.

Random weights in the official file format, and a tokenizer.model put together field by field, so that its pieces can be
chosen. Rows of 256 and 672 weights: the first holds whole blocks of every type, the second only of those of 32.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.torch_writer import write_shard

CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm2-small",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 672,
    "hidden_size": 256,
    "kv_channels": 64,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 512,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 1024,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, int]

FIRST: list[Piece] = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
BYTES: list[Piece] = [(f"<0x{value:02X}>", BYTE) for value in range(256)]
MERGES = ["th", "the", "▁the", "he", "ll", "hell", "hello", "▁hello", "so", "op", "ph", "il", "phil", "你好", "▁▁"]
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?[]()<>/|'\"\n你好问答："
PIECES: list[Piece] = [*FIRST, *BYTES, *[(text, NORMAL) for text in [*MERGES, *CHARACTERS]]]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """A protobuf field: ints as varints, floats as 32 bits, bytes with their length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str | bytes, kind: int, score: float = 0.0) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return field(1, field(1, encoded) + field(2, score) + field(3, kind))


TRAINER: Mapping[int, int | bytes] = {3: 2, 35: 1, 40: 0, 41: 1, 42: 2, 43: 2**64 - 1}  # BPE, byte fallback, ids
NORMALIZER: Mapping[int, int | bytes] = {1: b"identity", 2: b"", 3: 1, 4: 0, 5: 1}


def settings(number: int, values: Mapping[int, int | bytes]) -> bytes:
    return field(number, b"".join(field(key, value) for key, value in values.items()))


def tokenizer_proto(
    pieces: Iterable[Piece] = PIECES,
    trainer: Mapping[int, int | bytes] = TRAINER,
    normalizer: Mapping[int, int | bytes] = NORMALIZER,
) -> bytes:
    """A tokenizer.model; earlier normal pieces merge first."""
    scored = [piece(text, kind, -float(rank) if kind == NORMAL else 0.0) for rank, (text, kind) in enumerate(pieces)]
    return b"".join(scored) + settings(2, trainer) + settings(3, normalizer)


def shapes(config: Mapping[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    hidden, ffn, vocab = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    qkv = config["kv_channels"] * (config["num_attention_heads"] + 2 * config["multi_query_group_num"])
    found: dict[str, tuple[int, ...]] = {"transformer.embedding.word_embeddings.weight": (vocab, hidden)}
    for n in range(config["num_layers"]):
        start = f"transformer.encoder.layers.{n}."
        found |= {
            f"{start}input_layernorm.weight": (hidden,),
            f"{start}self_attention.query_key_value.weight": (qkv, hidden),
            f"{start}self_attention.query_key_value.bias": (qkv,),
            f"{start}self_attention.dense.weight": (hidden, hidden),
            f"{start}post_attention_layernorm.weight": (hidden,),
            f"{start}mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            f"{start}mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
    found["transformer.encoder.final_layernorm.weight"] = (hidden,)
    found["transformer.output_layer.weight"] = (vocab, hidden)
    found["transformer.rotary_pos_emb.inv_freq"] = (config["kv_channels"] // 4,)
    return found


def random_weights(config: Mapping[str, Any] = CONFIG) -> dict[str, NDArray[Any]]:
    """float16 weights with a few outliers, the same at every call."""
    draw = np.random.default_rng(7)
    return {name: (0.02 * draw.standard_t(5, shape)).astype(np.float16) for name, shape in shapes(config).items()}


def write_checkpoint(
    folder: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    weights: Mapping[str, NDArray[Any]] | None = None,
    tokenizer: bytes | None = None,
) -> Path:
    """Write a checkpoint of one shard into a new folder and return the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(tokenizer_proto() if tokenizer is None else tokenizer)
    write_shard(folder / "pytorch_model.bin", random_weights(config) if weights is None else weights)
    return folder
