"""A million random texts, tokenized in small slices by llama.cpp and whole by SentencePiece: are all ids equal?

    python tests/benchmarks/attacks/slices.py MODEL.gguf TOKENIZER.model [--texts 1000000]

The model must have been converted with that tokenizer.model. Prints the first texts that differ, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import sentencepiece

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.llama.model import Model
from support.random_texts import random_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    model = Model(options.model, vocab_only=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(options.tokenizer))
    pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
    draw = random.Random(options.seed)
    began = time.monotonic()
    characters = cuts = different = 0
    for _ in range(options.texts):
        text = random_text(draw, pieces)
        slices = [ids for ids, _ in model.tokenize_slices(text, draw.randint(1, 12))]
        characters += len(text)
        cuts += max(0, len(slices) - 2)  # the first has no ids
        if [token for ids in slices for token in ids] != processor.encode(text):
            different += 1
            if different <= 10:
                print(repr(text))
    seconds = round(time.monotonic() - began, 1)
    figures = {"texts": options.texts, "characters": characters, "cuts": cuts, "different": different, "s": seconds}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
