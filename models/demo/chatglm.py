"""ChatGLM2 in torch, of any size, with its checkpoint: tokenizer, config.json, two shards of float16 and their index.

The architecture is THUDM/chatglm2-6b's (Apache-2.0 code), written anew: RMSNorm before attention and MLP, rotary
positions on the first half of each head in interleaved pairs, few groups of keys and values for all heads, one fused
projection with bias, SwiGLU with gate rows first. Module names give the official tensor names.
"""

from __future__ import annotations

import io
import json
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEQ_LENGTH = 2048
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. The five special tokens follow the pieces, then padding up to a multiple of 64."""

    name: str
    pieces: int
    padded: int
    hidden: int
    layers: int
    heads: int
    head: int
    groups: int
    ffn: int

    @property
    def gmask(self) -> int:
        return self.pieces + 1

    @property
    def sop(self) -> int:
        return self.pieces + 3


class RMSNorm(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Rotary(nn.Module):
    """Angles for the first half of each head: head / 4 pairs, base 10000."""

    inv_freq: Tensor

    def __init__(self, head: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, head // 2, 2) / (head // 2)))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each (length, 1, head / 4)."""
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self.inv_freq).unsqueeze(1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbours (0, 1), (2, 3) … of the first half of x (batch, length, heads, head); the rest passes."""
    turned, passed = x.chunk(2, dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return torch.cat((pairs.flatten(-2), passed), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.groups, self.head = shape.heads, shape.groups, shape.head
        self.query_key_value = nn.Linear(shape.hidden, (shape.heads + 2 * shape.groups) * shape.head)
        self.dense = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.query_key_value(x).view(batch, length, self.heads + 2 * self.groups, self.head)
        query, key, value = heads.split((self.heads, self.groups, self.groups), dim=2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotation gives float32
        key, value = (t.repeat_interleave(self.heads // self.groups, dim=2).transpose(1, 2) for t in (key, value))
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, is_causal=True)
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(shape.hidden, 2 * shape.ffn, bias=False)  # rows: gate, then up
        self.dense_4h_to_h = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.self_attention = RMSNorm(shape.hidden), Attention(shape)
        self.post_attention_layernorm, self.mlp = RMSNorm(shape.hidden), MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attention(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class ChatGLM(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.transformer = nn.Module()
        self.transformer.embedding = nn.Module()
        self.transformer.embedding.word_embeddings = nn.Embedding(shape.padded, shape.hidden)
        self.transformer.rotary_pos_emb = Rotary(shape.head)
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.transformer.encoder.final_layernorm = RMSNorm(shape.hidden)
        self.transformer.output_layer = nn.Linear(shape.hidden, shape.padded, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("dense.weight", "dense_4h_to_h.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if deep else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Final hidden states (batch, length, hidden) of ids (batch, length)."""
        x = self.transformer.embedding.word_embeddings(ids)
        cos, sin = self.transformer.rotary_pos_emb(ids.shape[1])
        for layer in self.transformer.encoder.layers:
            x = layer(x, cos, sin)
        return self.transformer.encoder.final_layernorm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.transformer.output_layer(hidden)


class Muon:
    """Momentum made orthogonal, for the matrices inside the layers (K. Jordan 2024, kellerjordan.github.io/posts/muon).

    Five Newton-Schulz steps bring all singular values of the update near one. They compute in `dtype`.
    """

    def __init__(self, matrices: list[nn.Parameter], decay: float, dtype: torch.dtype = torch.float32) -> None:
        self._matrices, self._decay, self._dtype = matrices, decay, dtype
        self._momentum = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for matrix, momentum in zip(self._matrices, self._momentum, strict=True):
            momentum.lerp_(matrix.grad, 0.05)
            update = matrix.grad.lerp(momentum, 0.95)
            tall = update.shape[0] > update.shape[1]
            x = update.T if tall else update
            x = (x / (x.norm() + 1e-7)).to(self._dtype)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            size = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            x = x.to(matrix.dtype)
            matrix.mul_(1 - rate * self._decay).add_(x.T if tall else x, alpha=-rate * size)


# The checkpoint.


def config_of(shape: Shape) -> dict[str, object]:
    """config.json, with the keys of the official one."""
    return {
        "_name_or_path": shape.name,
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForSequenceClassification": "modeling_chatglm.ChatGLMForSequenceClassification",
        },
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": shape.ffn,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": shape.hidden,
        "kv_channels": shape.head,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": shape.groups,
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "original_rope": True,
        "padded_vocab_size": shape.padded,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": SEQ_LENGTH,
        "use_cache": True,
        "torch_dtype": "float16",
        "transformers_version": "4.27.1",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def save(model: ChatGLM, folder: Path) -> None:
    """config.json, tokenizer_config.json, the index, and two shards: embedding and half the layers, then the rest."""
    state = {name: tensor.detach().half().clone() for name, tensor in model.state_dict().items()}
    half = model.shape.layers // 2
    first = ("embedding", "rotary_pos_emb", *(f"layers.{n}." for n in range(half)))
    order = [n for n in state if "embedding" in n or "rotary" in n]
    order += [n for n in state if n not in order]
    where = {name: SHARDS[0] if any(part in name for part in first) else SHARDS[1] for name in order}
    for shard in SHARDS:
        torch.save(OrderedDict((name, state[name]) for name in order if where[name] == shard), folder / shard)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "pytorch_model.bin.index.json", index)
    write_json(folder / "config.json", config_of(model.shape))
    tokenizer_config = {
        "name_or_path": model.shape.name,
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)


def load(folder: Path, shape: Shape) -> ChatGLM:
    model = ChatGLM(shape)
    state: dict[str, Tensor] = {}
    for shard in SHARDS:
        state.update(torch.load(folder / shard, weights_only=True))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    model.transformer.rotary_pos_emb = Rotary(shape.head)  # the official code computes it anew too
    return model


def bpe(lines: Iterable[str], pieces: int, **own: object) -> bytes:
    """tokenizer.model with the settings of the real one; `own` are the other ones of this text."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        max_sentencepiece_length=16,
        num_threads=2,
        minloglevel=2,
        **own,
    )
    return model.getvalue()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
