"""A ChatGLM2 checkpoint computed in float32 with numpy, straight from the architecture: what the tests compare with.

Weights come from the checkpoint's own files, so nothing of GGUF, ggml or llama.cpp is in between. Written for being
right and readable; it takes milliseconds a token on small models. The architecture is that of `modeling_chatglm.py` in
THUDM/chatglm2-6b; the tiny reference checkpoint's logits and greedy text, made with that code, agree (test_oracle.py).
With a P-Tuning v2 checkpoint the cache begins with the keys and values of its prefix encoder, which are not rotated;
positions begin at 0 behind them (`get_prompt` and `PrefixEncoder` there).
Not here: sampling, quantized weights, batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from glm_edge.convert.source.checkpoint import open_checkpoint

Floats = NDArray[np.float32]
END = 2


def normalized(x: Floats, weight: Floats, epsilon: float) -> Floats:
    """RMSNorm over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    out: Floats = x / np.sqrt(mean + np.float32(epsilon)) * weight
    return out


def rotated(x: Floats, start: int, ratio: float) -> Floats:
    """x (length, heads, head) with the neighbours (0, 1), (2, 3) … of each head's first half turned by position."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-np.arange(0, half, 2, dtype=np.float64) / half) / ratio  # positions are divided (32k model)
    angles = np.outer(np.arange(start, start + len(x)), rates)[:, None, :]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    even, odd = x[..., 0:half:2], x[..., 1:half:2]
    out = x.copy()
    out[..., 0:half:2] = even * cos - odd * sin
    out[..., 1:half:2] = odd * cos + even * sin
    return out


def softmax(x: Floats) -> Floats:
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Floats = exponents / exponents.sum(axis=-1, keepdims=True)
    return out


@dataclass
class Cache:
    """Keys and values of the positions so far, for each layer (positions, groups, head)."""

    keys: list[Floats]
    values: list[Floats]
    length: int = field(default=0)


class Oracle:
    """The model in the checkpoint folder `folder`."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        self.config = checkpoint.config
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint.tokenizer))
        self._weights = {}
        for name, tensor in checkpoint.tensors.items():
            rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
            self._weights[name.removeprefix("transformer.")] = tensor.read_rows(0, rows).reshape(tensor.shape)

    def cache(self) -> Cache:
        empty = np.zeros((0, self.config.multi_query_group_num, self.config.kv_channels), np.float32)
        return Cache([empty] * self.config.num_layers, [empty] * self.config.num_layers)

    def tuned_cache(self, encoder: Mapping[str, NDArray[Any]]) -> Cache:
        """A cache that begins with the output of a prefix encoder, given by the names of its tensors."""
        rows = encoder["embedding.weight"].astype(np.float32)
        if "trans.0.weight" in encoder:
            one, two = (
                (encoder[f"trans.{n}.weight"].astype(np.float32), encoder[f"trans.{n}.bias"].astype(np.float32))
                for n in (0, 2)
            )
            rows = np.tanh(rows @ one[0].T + one[1]) @ two[0].T + two[1]
        layers, groups, head = (
            self.config.num_layers,
            self.config.multi_query_group_num,
            self.config.kv_channels,
        )
        cells = rows.reshape(len(rows), layers * 2, groups, head)
        return Cache([cells[:, 2 * n] for n in range(layers)], [cells[:, 2 * n + 1] for n in range(layers)])

    def logits(self, ids: list[int], cache: Cache) -> Floats:
        """(len(ids), vocabulary): what follows each of `ids`, which go after the positions in `cache`."""
        x = self._weights["embedding.word_embeddings.weight"][ids]
        for layer in range(self.config.num_layers):
            name = f"encoder.layers.{layer}."
            x = x + self._attention(name, self._norm(name + "input_layernorm", x), cache, layer)
            x = x + self._mlp(name, self._norm(name + "post_attention_layernorm", x))
        cache.length += len(ids)
        logits: Floats = self._norm("encoder.final_layernorm", x) @ self._weights["output_layer.weight"].T
        return logits

    def greedy(self, ids: list[int], limit: int, cache: Cache | None = None) -> list[int]:
        """The ids of the most likely continuation, token by token, without the end of text; at most `limit`."""
        cache = cache or self.cache()
        made: list[int] = []
        token = int(self.logits(ids, cache)[-1].argmax())
        while token != END and len(made) < limit:
            made.append(token)
            token = int(self.logits([token], cache)[-1].argmax())
        return made

    def prompt_ids(self, rounds: list[tuple[str, str]], question: str) -> list[int]:
        """[gMASK], sop, and the round template as one string (`build_prompt` of the official tokenizer's chat)."""
        text = "".join(f"[Round {n}]\n\n问：{q}\n\n答：{a}\n\n" for n, (q, a) in enumerate(rounds, start=1))
        count = self.pieces.get_piece_size()  # then [MASK], [gMASK], [sMASK], sop, eop
        asked = f"[Round {len(rounds) + 1}]\n\n问：{question}\n\n答："
        return [count + 1, count + 3, *self.pieces.encode(text + asked)]

    def answer(self, rounds: list[tuple[str, str]], question: str, limit: int = 256) -> str:
        """The greedy answer, white space at both ends removed as the official `process_response` does."""
        ids = self.greedy(self.prompt_ids(rounds, question), limit)
        return str(self.pieces.decode([token for token in ids if token < self.pieces.get_piece_size()])).strip()

    def _norm(self, name: str, x: Floats) -> Floats:
        return normalized(x, self._weights[name + ".weight"], self.config.layernorm_epsilon)

    def _attention(self, name: str, x: Floats, cache: Cache, layer: int) -> Floats:
        heads, groups, head = (
            self.config.num_attention_heads,
            self.config.multi_query_group_num,
            self.config.kv_channels,
        )
        name += "self_attention."
        fused = x @ self._weights[name + "query_key_value.weight"].T + self._weights[name + "query_key_value.bias"]
        query, key, value = np.split(fused.reshape(len(x), -1, head), [heads, heads + groups], axis=1)
        ratio = self.config.rope_ratio
        query, key = rotated(query, cache.length, ratio), rotated(key, cache.length, ratio)
        cache.keys[layer] = keys = np.concatenate([cache.keys[layer], key])
        cache.values[layer] = values = np.concatenate([cache.values[layer], value])
        front = len(keys) - cache.length - len(x)  # cells of P-Tuning, which every token sees
        future = np.arange(len(keys))[None, :] > np.arange(cache.length, cache.length + len(x))[:, None] + front
        mixed = np.empty((len(x), heads, head), np.float32)
        for n in range(heads):
            group = n * groups // heads  # neighbouring heads share keys and values
            scores = query[:, n] @ keys[:, group].T / np.float32(np.sqrt(head))
            mixed[:, n] = softmax(np.where(future, np.float32(-np.inf), scores)) @ values[:, group]
        out: Floats = mixed.reshape(len(x), -1) @ self._weights[name + "dense.weight"].T
        return out

    def _mlp(self, name: str, x: Floats) -> Floats:
        gate, up = np.split(x @ self._weights[name + "mlp.dense_h_to_4h.weight"].T, 2, axis=-1)
        out: Floats = gate / (1 + np.exp(-gate)) * up @ self._weights[name + "mlp.dense_4h_to_h.weight"].T
        return out
