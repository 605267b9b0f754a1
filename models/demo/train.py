#!/usr/bin/env python3
"""Makes the demo checkpoint from the folder `text`: the tokenizer, config.json, two shards of float16 and their index.

    python train.py --out DIR              at most an hour on 2 cores; needs torch, sentencepiece and protobuf
    python train.py --out DIR --check ../../tests/support/demo_prompts.jsonl ../../tests/support/demo_rounds.jsonl

The model is chatglm.py's. The sequence is the official one: [gMASK], sop, the prompt, the answer, end of text. Fixed
seeds: two runs with the same versions, machine and threads give the same bytes. Not covered: GPUs, resuming, any other
text. Nothing in GLM Edge itself needs torch; the programs under `models` alone do.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm import ChatGLM, Muon, Shape, bpe, load, save
from conversations import Round, Text
from quantized import Quantized

HERE = Path(__file__).resolve().parent
SHAPE = Shape("glm-edge-demo", pieces=2500, padded=2560, hidden=256, layers=4, heads=4, head=64, groups=2, ffn=672)
EOS = 2


# The tokenizer.


def train_tokenizer(text: Text, seed: int) -> bytes:
    """tokenizer.model with the settings of the real one; the corpus is what a model sees: 问：… and 答：… lines."""
    rng = random.Random(seed)
    lines: list[str] = []
    for _ in range(30000):
        for n, (question, answer) in enumerate(text.draw(rng), start=1):
            lines += [f"[Round {n}]", f"问：{question}", *f"答：{answer}".split("\n")]
    return bpe(dict.fromkeys(lines), SHAPE.pieces, character_coverage=1.0, shuffle_input_sentence=False)


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
        return [
            SHAPE.gmask,
            SHAPE.sop,
            *self._prompt.encode(f"{text}[Round {len(rounds) + 1}]\n\n问：{question}\n\n答："),
        ]

    def answer(self, text: str) -> list[int]:
        """Without the space that sentencepiece puts before a text: the answer goes on where the prompt ended."""
        return [*self._answer.encode(text), EOS]

    def decode(self, ids: list[int]) -> str:
        return self._answer.decode([i for i in ids if i < SHAPE.pieces]).strip()


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


def loss_of(model: ChatGLM, ids: Tensor, weights: Tensor, question_weight: float) -> Tensor:
    """Mean cross entropy of the next id; ids of the last answer count 1, of the text before it `question_weight`."""
    hidden = model(ids[:, :-1])
    kept = weights[:, 1:] > 0
    each = F.cross_entropy(model.logits(hidden[kept]), ids[:, 1:][kept], reduction="none")
    factor = torch.where(weights[:, 1:][kept] == 2, 1.0, question_weight)
    return (each * factor).sum() / factor.sum()


def replica_of(model: ChatGLM) -> ChatGLM:
    """A second model on the same weights, with gradients of its own."""
    replica = ChatGLM(SHAPE)
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
        model = ChatGLM(SHAPE)
        print(f"{sum(p.numel() for p in model.parameters()):,} weights, {len(text.topics)} topics", file=sys.stderr)
        train(model, text, Tokenizer(vocabulary.read_bytes()), options)
        save(model, options.out)
    check(load(options.out, SHAPE), Tokenizer(vocabulary.read_bytes()), options.check)


if __name__ == "__main__":
    main()
