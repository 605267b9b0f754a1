"""Compares how fast files run: prefill and decode of a bare llama_decode loop, file after file, round after round.

    python tests/benchmarks/speeds.py A.gguf B.gguf ... --rounds 3

What recipes are chosen by. Each file is loaded in a process of its own, weights repacked; a prompt is read and an
answer drawn greedily from it. Rounds go through the files in turn, every second one backwards, because a shared
machine's speed drifts: compare the medians' ratios to the first file, not tokens per second of different days.
Prints a table, then one JSON line. Not here: what the engine adds (glm-edge bench --bare).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from glm_edge.bench.bare import Bare
from glm_edge.bench.child import in_child
from glm_edge.llama import Model
from glm_edge.types import EngineConfig


def measure(path: Path, prompt: int, tokens: int, threads: int, tell: Callable[[float], object]) -> tuple[float, float]:
    """Tokens per second of the prompt and of the answer."""
    model = Model(path)
    bare = Bare(model, EngineConfig(path), n_ctx=prompt + tokens + 64, n_batch=prompt, threads=(threads, threads))
    bare.prefill(32)  # first touch of everything
    bare.cut(0)
    speeds = prompt / bare.prefill(prompt), tokens / bare.decode(tokens)
    bare.close()
    model.close()
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens; default 256")
    parser.add_argument("--tokens", type=int, default=32, help="of the answer; default 32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    found: dict[Path, list[tuple[float, float]]] = {path: [] for path in options.files}
    for number in range(options.rounds):
        for path in options.files[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}: {path.name}", file=sys.stderr, flush=True)
            found[path].append(
                in_child(measure, path, options.prompt, options.tokens, options.threads, tell=lambda done: None)
            )
    medians = {path: [statistics.median(run[i] for run in runs) for i in (0, 1)] for path, runs in found.items()}
    first = medians[options.files[0]]
    print(f"{'file':<28}{'GB':>7}{'prefill':>9}{'decode':>8}   of the first: prefill, decode")
    for path, (prefill, decode) in medians.items():
        print(f"{path.name:<28}{path.stat().st_size / 1e9:>7.2f}{prefill:>9.2f}{decode:>8.2f}", end="")
        print(f"{prefill / first[0]:>14.3f}{decode / first[1]:>8.3f}")
    runs = {path.name: {"runs": found[path], "medians": medians[path]} for path in options.files}
    print(json.dumps({"prompt": options.prompt, "tokens": options.tokens, "threads": options.threads, "files": runs}))


if __name__ == "__main__":
    main()
