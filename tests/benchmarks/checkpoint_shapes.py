"""What a ChatGLM2 checkpoint consists of in any size: tensors in their order, their split into shards, config.json.

Pure; the bytes are made in make_checkpoint.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

SHARD_LIMIT = 2_000_000_000  # bytes; transformers fills shards in order up to here, which gives the real 7
DTYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}  # ours -> config.json's torch_dtype


@dataclass(frozen=True)
class Sizes:
    """The sizes that config.json gives; the defaults are a model of 8.4 million weights with the real vocabulary."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_channels: int = 16
    groups: int = 2
    ffn: int = 224
    vocab: int = 65024
    seq_length: int = 2048


FULL = Sizes(4096, 28, 32, 128, 2, 13696, 65024, 32768)  # ChatGLM2-6B
CONFIG_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_layers",
    "heads": "num_attention_heads",
    "kv_channels": "kv_channels",
    "groups": "multi_query_group_num",
    "ffn": "ffn_hidden_size",
    "vocab": "padded_vocab_size",
    "seq_length": "seq_length",
}


class Weight(NamedTuple):
    """One tensor of the checkpoint; `kind` says how its values are drawn: matrix, norm, bias or inv_freq."""

    name: str
    shape: tuple[int, ...]
    kind: str


def weights(sizes: Sizes) -> list[Weight]:
    """Every tensor in the order of the official state dict."""
    hidden, ffn = sizes.hidden, sizes.ffn
    qkv = (sizes.heads + 2 * sizes.groups) * sizes.kv_channels
    found = [
        Weight("embedding.word_embeddings.weight", (sizes.vocab, hidden), "matrix"),
        Weight("rotary_pos_emb.inv_freq", (sizes.kv_channels // 4,), "inv_freq"),
    ]
    for i in range(sizes.layers):
        layer = f"encoder.layers.{i}"
        found += [
            Weight(f"{layer}.input_layernorm.weight", (hidden,), "norm"),
            Weight(f"{layer}.self_attention.query_key_value.weight", (qkv, hidden), "matrix"),
            Weight(f"{layer}.self_attention.query_key_value.bias", (qkv,), "bias"),
            Weight(f"{layer}.self_attention.dense.weight", (hidden, sizes.heads * sizes.kv_channels), "matrix"),
            Weight(f"{layer}.post_attention_layernorm.weight", (hidden,), "norm"),
            Weight(f"{layer}.mlp.dense_h_to_4h.weight", (2 * ffn, hidden), "matrix"),
            Weight(f"{layer}.mlp.dense_4h_to_h.weight", (hidden, ffn), "matrix"),
        ]
    found.append(Weight("encoder.final_layernorm.weight", (hidden,), "norm"))
    found.append(Weight("output_layer.weight", (sizes.vocab, hidden), "matrix"))
    return [Weight(f"transformer.{weight.name}", weight.shape, weight.kind) for weight in found]


def split(found: list[Weight], itemsize: int, n_shards: int | None) -> list[list[Weight]]:
    """The shards: as many as asked for, of about the same size, or else filled in order up to SHARD_LIMIT."""
    total = sum(prod(weight.shape) for weight in found) * itemsize
    shards: list[list[Weight]] = [[]]
    before = size = 0  # bytes in all shards, in the last one
    for i, weight in enumerate(found):
        n = prod(weight.shape) * itemsize
        if n_shards is None:
            full = size + n > SHARD_LIMIT
        else:
            left = n_shards - len(shards)  # shards still to come: each needs a tensor
            full = left > 0 and (before + n / 2 > total * len(shards) / n_shards or len(found) - i <= left)
        if shards[-1] and full:
            shards.append([])
            size = 0
        shards[-1].append(weight)
        before += n
        size += n
    return shards


def config(sizes: Sizes, dtype: str) -> dict[str, Any]:
    """config.json: the official one with these sizes."""
    remote = "modeling_chatglm.ChatGLMForConditionalGeneration"
    return {
        "_name_or_path": "THUDM/chatglm2-6b",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": remote,
            "AutoModelForCausalLM": remote,
            "AutoModelForSeq2SeqLM": remote,
            "AutoModelForSequenceClassification": "modeling_chatglm.ChatGLMForSequenceClassification",
        },
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
        "use_cache": True,
        "torch_dtype": DTYPES[dtype],
        "transformers_version": "4.27.1",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **{key: getattr(sizes, name) for name, key in CONFIG_KEYS.items()},
    }
