"""Builds GGUF files byte by byte, sound ones and broken ones: what the tests of the checker are made with.

It writes what it is told and checks nothing, which the gguf package would not let us do.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

CODES = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i")}
CODES |= {"f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}
Key = tuple[str, Any]  # type name, "[...]" for an array; and the value


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(type_name: str, content: Any) -> bytes:
    """A value with its type before it, as in a key's entry."""
    if type_name == "str":
        return struct.pack("<I", 8) + text(content)
    if type_name == "[str]":
        return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(map(text, content))
    number, code = CODES[type_name.strip("[]")]
    if type_name.startswith("["):
        return struct.pack("<IIQ", 9, number, len(content)) + struct.pack(f"<{len(content)}{code}", *content)
    return struct.pack(f"<I{code}", number, content)


def key(name: str | bytes, type_name: str, content: Any) -> bytes:
    return text(name) + value(type_name, content)


def tensor(name: str | bytes, shape: Sequence[int], type_id: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}qIQ", len(shape), *shape, type_id, offset)


def head(keys: Sequence[bytes] = (), tensors: Sequence[bytes] = (), **changes: Any) -> bytes:
    """Magic, version, counts, keys and tensor table. `changes`: magic, version, n_keys, n_tensors."""
    counts = changes.get("n_tensors", len(tensors)), changes.get("n_keys", len(keys))
    start = struct.pack("<4sIQQ", changes.get("magic", b"GGUF"), changes.get("version", 3), *counts)
    return start + b"".join(keys) + b"".join(tensors)


def pad(data: bytes, alignment: int = 32) -> bytes:
    return data + bytes(-len(data) % alignment)


def build(keys: Sequence[bytes] = (), tensors: Sequence[bytes] = (), data: bytes = b"", **changes: Any) -> bytes:
    """A whole file; `data` is padded at its end."""
    return pad(head(keys, tensors, **changes)) + pad(data)


def tiny_keys() -> dict[str, Key]:
    """The metadata of a model with hidden 8, 2 layers, 2 heads of 4, 1 group, ffn 6 and 264 tokens."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b", "c", "[gMASK]", "<sop>"]
    n = len(tokens)
    return {
        "general.architecture": ("str", "chatglm"),
        "general.name": ("str", "tiny"),
        "chatglm.context_length": ("u32", 128),
        "chatglm.embedding_length": ("u32", 8),
        "chatglm.feed_forward_length": ("u32", 6),
        "chatglm.block_count": ("u32", 2),
        "chatglm.attention.head_count": ("u32", 2),
        "chatglm.attention.head_count_kv": ("u32", 1),
        "chatglm.attention.layer_norm_rms_epsilon": ("f32", 1e-5),
        "chatglm.rope.dimension_count": ("u32", 2),
        "chatglm.rope.freq_base": ("f32", 10000.0),
        "tokenizer.ggml.model": ("str", "llama"),
        "tokenizer.ggml.tokens": ("[str]", tokens),
        "tokenizer.ggml.scores": ("[f32]", [-float(i) for i in range(n)]),
        "tokenizer.ggml.token_type": ("[i32]", [2, 3, 3, *[6] * 256, 1, 1, 1, 3, 3]),
        "tokenizer.ggml.eos_token_id": ("u32", 2),
        "tokenizer.ggml.add_bos_token": ("bool", 0),
        "glm_edge.prefix_ids": ("[i32]", [n - 2, n - 1]),
        "glm_edge.golden": ("str", json.dumps([["a", [259]], ["", []]])),
    }


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    layer = {
        "attn_norm.weight": (8,),
        "attn_qkv.weight": (8, 16),
        "attn_qkv.bias": (16,),
        "attn_output.weight": (8, 8),
        "ffn_norm.weight": (8,),
        "ffn_up.weight": (8, 12),
        "ffn_down.weight": (6, 8),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, 264), "output_norm.weight": (8,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    return shapes | {"output.weight": (8, 264)}


def build_model(
    keys: Mapping[str, Key], shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, int] | None = None
) -> bytes:
    """A file with these keys and tensors, zeros in each; of type f32 (0) where not given, else f16 (1) or i32 (26)."""
    table, data = [], b""
    for name, shape in shapes.items():
        type_id = (types or {}).get(name, 0)
        table.append(tensor(name, shape, type_id, len(data)))
        data = pad(data + bytes(prod(shape) * (2 if type_id == 1 else 4)))
    return build([key(name, *content) for name, content in keys.items()], table, data)
