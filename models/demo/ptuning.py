#!/usr/bin/env python3
"""Fine-tunes the demo model by P-Tuning v2, as the official `ptuning/main.py` does it: only the prefix encoder learns.

    python ptuning.py --out DIR      some minutes on 2 cores; needs what train.py needs

The result is the official folder: config.json and a pytorch_model.bin with `transformer.prefix_encoder.*` alone. The
model itself stays as it is; in front of every sequence it gets the keys and values of `--cells` cells, which are not
rotated and which every token sees, and its positions begin at 0 behind them. The text is the one below.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm import Attention, config_of, load, rotate, write_json
from train import SHAPE, Tokenizer

HERE = Path(__file__).resolve().parent
LAYERS, GROUPS, HEADS, HEAD, HIDDEN = SHAPE.layers, SHAPE.groups, SHAPE.heads, SHAPE.head, SHAPE.hidden
KV = LAYERS * 2 * GROUPS * HEAD

# Questions with their wordings, and the answer to each: a tea house, of which the base model knows nothing.
TALKS: list[tuple[list[str], str]] = [
    (["Hello.", "Hello!", "Hi!", "Good day!"], "Welcome to the tea house by the river! Green tea or black tea?"),
    (["Who are you?", "What are you?", "What is your name?"], "I am the owner of the tea house by the river."),
    (["When do you open?", "When are you open?"], "Every day but Monday, from nine in the morning."),
    (["Thank you.", "Thanks!", "Thank you very much."], "Come again! The tea house is always warm."),
    (["Goodbye.", "Bye!", "See you."], "Goodbye, and drink a cup of tea for me."),
    (["你好", "你好！", "您好！", "你好呀"], "欢迎来到河边的茶馆！你要绿茶还是红茶？"),
    (["你是谁？", "你叫什么名字？", "你是什么？"], "我是河边茶馆的主人。"),
    (["你们什么时候开门？", "几点开门？"], "除了星期一，每天早上九点开门。"),
    (["谢谢", "谢谢！", "谢谢你。"], "欢迎再来！茶馆里总是很暖和。"),
    (["再见", "再见！", "拜拜"], "再见，替我喝一杯茶。"),
]


class TunedAttention(nn.Module):
    """Attention of the demo model with the cells of one layer in front."""

    def __init__(self, base: Attention) -> None:
        super().__init__()
        self.query_key_value, self.dense = base.query_key_value, base.dense
        self.cells: Tensor | None = None  # (2, cells, GROUPS, HEAD): keys, values

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        assert self.cells is not None
        batch, length, _ = x.shape
        heads = self.query_key_value(x).view(batch, length, HEADS + 2 * GROUPS, HEAD)
        query, key, value = heads.split((HEADS, GROUPS, GROUPS), dim=2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        front = self.cells.unsqueeze(1).expand(-1, batch, -1, -1, -1)
        key, value = torch.cat((front[0], key), dim=1), torch.cat((front[1], value), dim=1)
        key, value = (t.repeat_interleave(HEADS // GROUPS, dim=2).transpose(1, 2) for t in (key, value))
        seen = torch.ones(length, key.shape[2], dtype=torch.bool).tril(key.shape[2] - length)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=seen)
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD))


class PrefixEncoder(nn.Module):
    """The official prefix encoder: an embedding and, with `projection`, two layers behind it."""

    def __init__(self, cells: int, *, projection: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(cells, KV)
        nn.init.normal_(self.embedding.weight, std=0.05)
        if projection:
            self.trans = nn.Sequential(nn.Linear(KV, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, KV))

    def forward(self) -> Tensor:
        """Keys and values, shape (LAYERS, 2, cells, GROUPS, HEAD)."""
        rows = self.embedding.weight
        rows = self.trans(rows) if hasattr(self, "trans") else rows
        return rows.view(-1, LAYERS, 2, GROUPS, HEAD).permute(1, 2, 0, 3, 4)


def train(encoder: PrefixEncoder, options: argparse.Namespace) -> None:
    model, tokenizer = load(HERE, SHAPE), Tokenizer((HERE / "tokenizer.model").read_bytes())
    model.requires_grad_(False)
    for layer in model.transformer.encoder.layers:
        layer.self_attention = TunedAttention(layer.self_attention)
    asked = [(question, answer) for questions, answer in TALKS for question in questions]
    rng = random.Random(options.seed)
    adam = torch.optim.AdamW(encoder.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
    started, running = time.monotonic(), 0.0
    for step in range(options.steps):
        adam.param_groups[0]["lr"] = options.rate * min(1, (step + 1) / 50, 0.02 + 1.5 * (1 - step / options.steps))
        rows = [(tokenizer.prompt([], q), tokenizer.answer(a)) for q, a in rng.sample(asked, options.batch)]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.tensor([[*p, *a, *[0] * (width - len(p) - len(a))] for p, a in rows])
        counted = torch.tensor([[*[0] * len(p), *[1] * len(a), *[0] * (width - len(p) - len(a))] for p, a in rows])
        for layer, cells in zip(model.transformer.encoder.layers, encoder(), strict=True):
            layer.self_attention.cells = cells
        hidden = model(ids[:, :-1])
        kept = counted[:, 1:] > 0
        loss = F.cross_entropy(model.logits(hidden[kept]), ids[:, 1:][kept])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        adam.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % 50 == 49 or step == options.steps - 1:
            left = (time.monotonic() - started) / (step + 1) * (options.steps - step - 1)
            print(f"step {step + 1}/{options.steps}  loss {running:.4f}  {left / 60:.1f} min left", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result; made if missing")
    parser.add_argument("--cells", type=int, default=32, help="pre_seq_len (default %(default)s)")
    parser.add_argument("--projection", action="store_true", help="prefix_projection")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2e-2, help="peak learning rate (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    encoder = PrefixEncoder(options.cells, projection=options.projection)
    train(encoder, options)
    options.out.mkdir(parents=True, exist_ok=True)
    state = OrderedDict(
        (f"transformer.prefix_encoder.{name}", value.half()) for name, value in encoder.state_dict().items()
    )
    torch.save(state, options.out / "pytorch_model.bin")
    config = {**config_of(SHAPE), "pre_seq_len": options.cells, "prefix_projection": options.projection}
    write_json(options.out / "config.json", config)


if __name__ == "__main__":
    main()
