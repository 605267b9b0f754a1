#!/usr/bin/env python3
"""Makes the demo checkpoint from the folder `text`: the tokenizer, config.json, two shards of float16 and their index.

    python train.py --out DIR              at most an hour on 2 cores; needs torch, sentencepiece and protobuf
    python train.py --out DIR --check ../../tests/support/demo_prompts.jsonl ../../tests/support/demo_rounds.jsonl

The architecture is ChatGLM2's (THUDM/chatglm2-6b, Apache-2.0 code), written anew: RMSNorm before attention and
MLP, rotary positions on the first half of each head in interleaved pairs, two groups of keys and values for all heads,
one fused projection with bias, SwiGLU with gate rows first. The sequence is the official one: [gMASK], sop, the prompt,
the answer, end of text. Fixed seeds: two runs with the same versions, machine and threads give the same bytes.
Not covered: GPUs, resuming, any other text. Nothing in GLM Edge itself needs torch; this file alone does.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversations import Round, Text

HERE = Path(__file__).resolve().parent
PIECES, PADDED = 2500, 2560  # the five special tokens follow the pieces, then padding up to a multiple of 64
HIDDEN, LAYERS, HEADS, HEAD, GROUPS, FFN = 256, 4, 4, 64, 2, 672
GMASK, SOP, EOS = PIECES + 1, PIECES + 3, 2
SEQ_LENGTH = 2048
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
CONFIG = {
    "_name_or_path": "glm-edge-demo",
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
    "ffn_hidden_size": FFN,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": HIDDEN,
    "kv_channels": HEAD,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": GROUPS,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "original_rope": True,
    "padded_vocab_size": PADDED,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": SEQ_LENGTH,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.27.1",
    "tie_word_embeddings": False,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
TOKENIZER_CONFIG = {
    "name_or_path": "glm-edge-demo",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}


# The model. Module names give the official tensor names.


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HIDDEN,), self.weight, 1e-5)


class Rotary(nn.Module):
    """Angles for the first half of each head: HEAD / 4 pairs, base 10000."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, HEAD // 2, 2) / (HEAD // 2)))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each (length, 1, HEAD / 4)."""
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self.inv_freq).unsqueeze(1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbours (0, 1), (2, 3) … of the first half of x (batch, length, heads, HEAD); the rest passes."""
    turned, passed = x.chunk(2, dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return torch.cat((pairs.flatten(-2), passed), dim=-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(HIDDEN, (HEADS + 2 * GROUPS) * HEAD)
        self.dense = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.query_key_value(x).view(batch, length, HEADS + 2 * GROUPS, HEAD)
        query, key, value = heads.split((HEADS, GROUPS, GROUPS), dim=2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key, value = (t.repeat_interleave(HEADS // GROUPS, dim=2).transpose(1, 2) for t in (key, value))
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, is_causal=True)
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(HIDDEN, 2 * FFN, bias=False)  # rows: gate, then up
        self.dense_4h_to_h = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.self_attention = RMSNorm(), Attention()
        self.post_attention_layernorm, self.mlp = RMSNorm(), MLP()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attention(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class ChatGLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.embedding = nn.Module()
        self.transformer.embedding.word_embeddings = nn.Embedding(PADDED, HIDDEN)
        self.transformer.rotary_pos_emb = Rotary()
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.transformer.encoder.final_layernorm = RMSNorm()
        self.transformer.output_layer = nn.Linear(HIDDEN, PADDED, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("dense.weight", "dense_4h_to_h.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if deep else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Final hidden states (batch, length, HIDDEN) of ids (batch, length)."""
        x = self.transformer.embedding.word_embeddings(ids)
        cos, sin = self.transformer.rotary_pos_emb(ids.shape[1])
        for layer in self.transformer.encoder.layers:
            x = layer(x, cos, sin)
        return self.transformer.encoder.final_layernorm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.transformer.output_layer(hidden)


# The tokenizer.


def train_tokenizer(text: Text, seed: int) -> bytes:
    """tokenizer.model with the settings of the real one; the corpus is what a model sees: 问：… and 答：… lines."""
    rng = random.Random(seed)
    lines: list[str] = []
    for _ in range(30000):
        for n, (question, answer) in enumerate(text.draw(rng), start=1):
            lines += [f"[Round {n}]", f"问：{question}", *f"答：{answer}".split("\n")]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(dict.fromkeys(lines)),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        max_sentencepiece_length=16,
        shuffle_input_sentence=False,
        num_threads=2,
        minloglevel=2,
    )
    return model.getvalue()


class Tokenizer:
    """Ids of prompts as inference sees them: one string, encoded whole, after [gMASK] and sop."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import sentencepiece_model_pb2 as proto

        self._prompt = spm.SentencePieceProcessor(model_proto=model)
        spec = proto.ModelProto.FromString(model)
        spec.normalizer_spec.add_dummy_prefix = False
        self._answer = spm.SentencePieceProcessor(model_proto=spec.SerializeToString())

    def prompt(self, rounds: list[Round], question: str) -> list[int]:
        text = "".join(f"[Round {n}]\n\n问：{q}\n\n答：{a}\n\n" for n, (q, a) in enumerate(rounds, start=1))
        return [GMASK, SOP, *self._prompt.encode(f"{text}[Round {len(rounds) + 1}]\n\n问：{question}\n\n答：")]

    def answer(self, text: str) -> list[int]:
        """Without the space that sentencepiece puts before a text: the answer goes on where the prompt ended."""
        return [*self._answer.encode(text), EOS]

    def decode(self, ids: list[int]) -> str:
        return self._answer.decode([i for i in ids if i < PIECES]).strip()


# Training.


def example(tokenizer: Tokenizer, rounds: list[Round], rng: random.Random) -> tuple[list[int], list[int]]:
    """Ids of one conversation, and how each counts: 2 in an answer, 1 elsewhere, 0 for two thirds of that (speed).

    End of text follows the last answer only. In earlier rounds the answer lies in the middle of one encoded string.
    """
    prompt = tokenizer.prompt(rounds[:-1], rounds[-1][0])
    last = tokenizer.answer(rounds[-1][1])
    ids = prompt + last
    weights = [int(rng.random() < 1 / 3) for _ in prompt] + [2] * len(last)
    for n, (question, text) in enumerate(rounds[:-1]):
        start = tokenizer.prompt(rounds[:n], question)
        body = tokenizer.answer(text)[:-1]
        if ids[: len(start) + len(body)] == start + body:
            weights[len(start) : len(start) + len(body)] = [2] * len(body)
    return ids, weights


def batches(text: Text, tokenizer: Tokenizer, rng: random.Random, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Enough conversations for about 40 batches of `tokens` ids, similar lengths together, in random order.

    Each conversation of n rounds appears cut after a random round, mostly the last.
    """
    pool = []
    size = 0
    while size < 40 * tokens:
        rounds = text.draw(rng)
        if rng.random() < 0.2:
            rounds = rounds[: rng.randint(1, len(rounds))]
        ids, weights = example(tokenizer, rounds, rng)
        if len(ids) <= 640:
            pool.append((ids, weights))
            size += len(ids)
    pool.sort(key=lambda item: len(item[0]))
    groups, start = [], 0
    while start < len(pool):
        end = start + 1
        while end < len(pool) and len(pool[end][0]) * (end + 1 - start) <= tokens:
            end += 1
        group, start = pool[start:end], end
        width = len(group[-1][0])
        padded = [[row + [0] * (width - len(row)) for row in rows] for rows in zip(*group, strict=True)]
        groups.append((torch.tensor(padded[0]), torch.tensor(padded[1])))
    rng.shuffle(groups)
    return groups


class Muon:
    """Momentum made orthogonal, for the matrices inside the layers (K. Jordan 2024, kellerjordan.github.io/posts/muon).

    Five Newton-Schulz steps bring all singular values of the update near one.
    """

    def __init__(self, matrices: list[nn.Parameter], decay: float) -> None:
        self._matrices, self._decay = matrices, decay
        self._momentum = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for matrix, momentum in zip(self._matrices, self._momentum, strict=True):
            momentum.lerp_(matrix.grad, 0.05)
            update = matrix.grad.lerp(momentum, 0.95)
            tall = update.shape[0] > update.shape[1]
            x = update.T if tall else update
            x = x / (x.norm() + 1e-7)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            size = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.mul_(1 - rate * self._decay).add_(x.T if tall else x, alpha=-rate * size)


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """What llama.cpp's Q4_0 (bits 4) or Q8_0 (bits 8) makes of a matrix: blocks of 32 along a row, one f16 scale."""
    blocks = weight.reshape(-1, 32)
    if bits == 8:
        scale = (blocks.abs().amax(1, keepdim=True) / 127).half().float()
        return (blocks / scale.clamp_min(1e-12)).round().mul(scale).view_as(weight)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (largest / -8).half().float()
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return ((blocks * inverse + 8.5).floor().clamp(0, 15) - 8).mul(scale).view_as(weight)


class Quantized:
    """While entered, every matrix but the output layer is what the quantizer would make of it (straight-through)."""

    def __init__(self, bits: int, *replicas: ChatGLM) -> None:
        self._bits = bits
        named = [name for name, _ in replicas[0].named_parameters()]
        same = zip(*(replica.parameters() for replica in replicas), strict=True)  # one weight, in every replica
        pairs = zip(named, same, strict=True)
        self._matrices = [weights for name, weights in pairs if weights[0].dim() == 2 and "output_layer" not in name]

    def __enter__(self) -> None:
        self._saved = [weights[0].data for weights in self._matrices]
        if self._bits:
            self._set([fake_quantize(saved, self._bits) for saved in self._saved])

    def __exit__(self, *_: object) -> None:
        self._set(self._saved)

    def _set(self, values: list[Tensor]) -> None:
        for weights, value in zip(self._matrices, values, strict=True):
            for weight in weights:
                weight.data = value


def loss_of(model: ChatGLM, ids: Tensor, weights: Tensor, question_weight: float) -> Tensor:
    """Mean cross entropy of the next id; ids of the last answer count 1, of the text before it `question_weight`."""
    hidden = model(ids[:, :-1])
    kept = weights[:, 1:] > 0
    each = F.cross_entropy(model.logits(hidden[kept]), ids[:, 1:][kept], reduction="none")
    factor = torch.where(weights[:, 1:][kept] == 2, 1.0, question_weight)
    return (each * factor).sum() / factor.sum()


def replica_of(model: ChatGLM) -> ChatGLM:
    """A second model on the same weights, with gradients of its own."""
    replica = ChatGLM()
    for mine, theirs in zip(replica.parameters(), model.parameters(), strict=True):
        mine.data = theirs.data
    return replica


def train(model: ChatGLM, text: Text, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """`options.threads` replicas, each with a batch in a thread of its own: faster here than threads inside one."""
    rng = random.Random(options.seed)
    replicas = [model, *(replica_of(model) for _ in range(1, options.threads))]
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    outer = [p for n, p in model.named_parameters() if p.dim() != 2 or ".layers." not in n]
    muon, adam = Muon(inner, 0.1), torch.optim.AdamW(outer, lr=1.0, betas=(0.9, 0.97), weight_decay=0.02, fused=True)
    started, queue, running, seen = time.monotonic(), [], 0.0, 0

    def gradient(replica: ChatGLM, ids: Tensor, weights: Tensor) -> float:
        replica.zero_grad(set_to_none=True)
        loss = loss_of(replica, ids, weights, options.question_weight) / len(replicas)
        loss.backward()
        return loss.item()

    pool = ThreadPoolExecutor(len(replicas))
    for step in range(options.steps):
        done = step / options.steps
        rate = min(1.0, (step + 1) / 100, 0.02 + 0.98 * (1 - done) / 0.6)
        adam.param_groups[0]["lr"] = rate * options.rate
        if len(queue) < len(replicas):
            queue = batches(text, tokenizer, rng, options.tokens // len(replicas))
        work = [queue.pop() for _ in replicas]
        seen += sum(ids.numel() for ids, _ in work)
        with Quantized(4 if done > 0.5 and step % 2 else 0, *replicas):
            loss = sum(pool.map(gradient, replicas, *zip(*work, strict=True)))
        for each in zip(*(replica.parameters() for replica in replicas), strict=True):
            for other in each[1:]:
                each[0].grad += other.grad
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        muon.step(rate * options.muon_rate)
        running = loss if step == 0 else 0.98 * running + 0.02 * loss
        if step % 50 == 49 or step == options.steps - 1:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (options.steps - step - 1)
            print(
                f"step {step + 1}/{options.steps}  loss {running:.4f}  {seen / spent:.0f} tokens/s  "
                f"{spent / 60:.1f} min spent, {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
        if options.save_every and step % options.save_every == options.save_every - 1:
            save(model, options.out)


# The checkpoint.


def save(model: ChatGLM, folder: Path) -> None:
    """config.json, tokenizer_config.json, the index and two shards: the embedding and two layers, then the rest."""
    state = {name: tensor.detach().half().clone() for name, tensor in model.state_dict().items()}
    first = ("embedding", "rotary_pos_emb", "layers.0.", "layers.1.")
    order = [n for n in state if "embedding" in n or "rotary" in n]
    order += [n for n in state if n not in order]
    where = {name: SHARDS[0] if any(part in name for part in first) else SHARDS[1] for name in order}
    for shard in SHARDS:
        torch.save(OrderedDict((name, state[name]) for name in order if where[name] == shard), folder / shard)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "pytorch_model.bin.index.json", index)
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)


def load(folder: Path) -> ChatGLM:
    model = ChatGLM()
    state: dict[str, Tensor] = {}
    for shard in SHARDS:
        state.update(torch.load(folder / shard, weights_only=True))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    model.transformer.rotary_pos_emb = Rotary()  # the official code computes it anew too
    return model


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# Checking.


@torch.inference_mode()
def answer(model: ChatGLM, tokenizer: Tokenizer, rounds: list[Round], question: str, limit: int = 256) -> str:
    """The greedy answer."""
    ids = tokenizer.prompt(rounds, question)
    start = len(ids)
    while len(ids) < start + limit:
        token = int(model.logits(model(torch.tensor([ids]))[:, -1]).argmax())
        if token == EOS:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


def check(model: ChatGLM, tokenizer: Tokenizer, files: list[Path]) -> None:
    """Share of the expected answers that greedy decoding gives: as saved, and with Q8_0 and Q4_0 matrices."""
    cases: list[tuple[list[Round], str, str]] = []
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            if isinstance(case, dict):
                cases.append(([], case["prompt"], case["answer"]))
            else:
                cases += [([], *case[0]), ([tuple(case[0])], *case[1:])]
    for bits, name in ((0, "F16"), (8, "Q8_0"), (4, "Q4_0")):
        with Quantized(bits, model):
            given = [answer(model, tokenizer, rounds, question) for rounds, question, _ in cases]
        right = sum(got == wanted for got, (_, _, wanted) in zip(given, cases, strict=True))
        print(f"{name}: {right} of {len(cases)} answers as expected")
        for got, (rounds, question, wanted) in zip(given, cases, strict=True):
            if got != wanted:
                print(f"  {[*rounds, question]!r}\n    wanted {wanted!r}\n    got    {got!r}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; made if missing")
    parser.add_argument("--text", type=Path, default=HERE / "text", help="folder of the training text")
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=3072, help="ids in a batch (default %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default %(default)s)")
    parser.add_argument("--muon-rate", type=float, default=0.02, help="the same, for matrices inside the layers")
    parser.add_argument("--question-weight", type=float, default=0.1, help="what ids outside the answer count")
    parser.add_argument("--seed", type=int, default=20231122)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=0, help="also save each so many steps")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="JSON lines of prompts and expected answers")
    parser.add_argument("--check-only", action="store_true", help="do not train; check what is in --out")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(1)  # see `train`
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    vocabulary = options.out / "tokenizer.model"
    if not options.check_only:
        text = Text(options.text)
        vocabulary.write_bytes(train_tokenizer(text, options.seed))
        model = ChatGLM()
        print(f"{sum(p.numel() for p in model.parameters()):,} weights, {len(text.topics)} topics", file=sys.stderr)
        train(model, text, Tokenizer(vocabulary.read_bytes()), options)
        save(model, options.out)
    check(load(options.out), Tokenizer(vocabulary.read_bytes()), options.check)


if __name__ == "__main__":
    main()
