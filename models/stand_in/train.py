#!/usr/bin/env python3
"""Trains the stand-in: a ChatGLM2 of 33 million weights in its layers, on text that the installed system brings.

    python train.py --out DIR --minutes 45     needs torch, sentencepiece and protobuf

DIR gets `ckpt`, a checkpoint in the official format, `heldout.txt`, text of 100 files that it never saw, and
`calibration.txt`, of 100 that it was trained on. The minutes are processor time of each thread, so pauses do not count.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm import ChatGLM, Muon, Shape, bpe, load, save
from corpus import documents, held_out

SHAPE = Shape(
    "glm-edge-stand-in", pieces=4000, padded=4032, hidden=512, layers=10, heads=8, head=64, groups=2, ffn=1696
)
SAMPLE = 3000  # characters of each of 100 documents that go into the files to measure with
ROW = 512  # ids of a sequence, [gMASK] and sop included


def train_tokenizer(texts: list[str]) -> bytes:
    """tokenizer.model with the settings of the real one."""
    lines = (line for text in texts for line in text.split("\n") if line.strip())
    return bpe(lines, SHAPE.pieces, character_coverage=0.9985, input_sentence_size=60_000, shuffle_input_sentence=True)


def rows_of(tokenizer: spm.SentencePieceProcessor, texts: list[str]) -> Tensor:
    """All the text in sequences of ROW ids, each beginning with [gMASK] and sop."""
    ids = [token for text in tokenizer.encode(texts) for token in (*text, tokenizer.eos_id())]
    size = ROW - 2
    return torch.tensor(
        [[SHAPE.gmask, SHAPE.sop, *ids[start : start + size]] for start in range(0, len(ids) - size + 1, size)]
    )


def loss_of(model: ChatGLM, ids: Tensor, half: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model.logits(model(ids[:, :-1]))
    return F.cross_entropy(logits[:, 1:].float().flatten(0, 1), ids[:, 2:].flatten())


def train(model: ChatGLM, rows: Tensor, options: argparse.Namespace) -> None:
    half = options.dtype == "bfloat16"
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    outer = [p for n, p in model.named_parameters() if p.dim() != 2 or ".layers." not in n]
    muon = Muon(inner, 0.1, torch.bfloat16 if half else torch.float32)
    adam = torch.optim.AdamW(outer, lr=1.0, betas=(0.9, 0.97), weight_decay=0.02, fused=True)
    order: list[int] = []
    rng = random.Random(options.seed)
    started, saved = time.process_time(), 0.0
    running, step, spent = 0.0, 0, 0.0  # spent: minutes in which all threads computed; pauses do not count
    while (done := spent / options.minutes) < 1:
        if len(order) < options.batch:
            order += rng.sample(range(len(rows)), len(rows))
        ids = rows[[order.pop() for _ in range(options.batch)]]
        rate = min(1.0, (step + 1) / 40, 0.02 + 0.98 * (1 - done) / 0.6)
        adam.param_groups[0]["lr"] = rate * options.rate
        model.zero_grad(set_to_none=True)
        loss = loss_of(model, ids, half)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        muon.step(rate * options.muon_rate)
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        step += 1
        spent = (time.process_time() - started) / (60 * options.threads)
        if step % 10 == 0:
            tokens = step * options.batch * ROW
            print(
                f"step {step}  loss {running:.3f}  {tokens / spent / 60:.0f} tokens/s  "
                f"{tokens / rows.numel():.2f} epochs  {spent:.1f} of {options.minutes:g} min",
                file=sys.stderr,
                flush=True,
            )
        if spent - saved > 5:
            save(model, options.out / "ckpt")
            saved = spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result; made if missing")
    parser.add_argument(
        "--minutes", type=float, default=45, help="of processor time of each thread (default %(default)s)"
    )
    parser.add_argument("--megabytes", type=float, default=20, help="of text at most (default %(default)s)")
    parser.add_argument("--batch", type=int, default=12, help=f"sequences of {ROW} ids in a step (default %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default %(default)s)")
    parser.add_argument("--muon-rate", type=float, default=0.02, help="the same, for matrices inside the layers")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the products")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on with the checkpoint in --out")
    parser.add_argument("--seed", type=int, default=20231122)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = options.out / "ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    found = list(documents(options.megabytes))
    kept = [text for path, text in found if not held_out(path)]
    held = [text for path, text in found if held_out(path)]
    rng = random.Random(options.seed)
    for name, texts in (("calibration.txt", kept), ("heldout.txt", held)):
        rng.shuffle(texts)
        sample = "\n\n".join(text[:SAMPLE] for text in texts[:100])
        (options.out / name).write_text(sample + "\n", encoding="utf-8")
    print(f"{len(found)} documents, {len(held)} of them held out", file=sys.stderr)
    if options.resume:
        vocabulary, model = (folder / "tokenizer.model").read_bytes(), load(folder, SHAPE)
    else:
        vocabulary, model = train_tokenizer(kept), ChatGLM(SHAPE)
        (folder / "tokenizer.model").write_bytes(vocabulary)
    rows = rows_of(spm.SentencePieceProcessor(model_proto=vocabulary), kept)
    layers = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n)
    print(f"{layers:,} weights in the layers, {rows.numel():,} ids", file=sys.stderr, flush=True)
    train(model, rows, options)
    save(model, folder)


if __name__ == "__main__":
    main()
