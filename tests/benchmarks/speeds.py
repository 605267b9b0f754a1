"""Compares how fast files run: prefill and decode of a bare llama_decode loop, file after file, round after round.

    python tests/benchmarks/speeds.py A.gguf B.gguf ... --rounds 3

What recipes are chosen by. All files are loaded at once, weights repacked, so memory holds them all; rounds go through
them in turn, every second one backwards. A shared machine's speed drifts from minute to minute: compare the ratios to
the first file, which are medians over the rounds of ratios within one round, not tokens per second.
Prints a table, then one JSON line. Not here: what the engine adds (glm-edge bench --bare).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from tqdm import tqdm

from glm_edge.llama.model import Model
from glm_edge.tools.bench.bare import Bare
from glm_edge.types import EngineConfig


def bare_loop(path: Path, prompt: int, tokens: int, threads: int) -> Bare:
    """Loaded, and touched once all over."""
    config = EngineConfig(path)
    loop = Bare(Model(path), config, n_ctx=prompt + tokens + 64, n_batch=prompt, threads=(threads, threads))
    loop.prefill(32)
    return loop


def measure(loop: Bare, prompt: int, tokens: int) -> tuple[float, float]:
    """Tokens per second of a prompt and of an answer."""
    loop.cut(0)
    return prompt / loop.prefill(prompt), tokens / loop.decode(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens; default 256")
    parser.add_argument("--tokens", type=int, default=32, help="of the answer; default 32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    loops = {path: bare_loop(path, options.prompt, options.tokens, options.threads) for path in options.files}
    found: dict[Path, list[tuple[float, float]]] = {path: [] for path in options.files}
    for number in tqdm(range(options.rounds), "rounds", disable=None):
        for path in options.files[:: -1 if number % 2 else 1]:
            found[path].append(measure(loops[path], options.prompt, options.tokens))
    first = found[options.files[0]]
    medians, ratios = {}, {}
    for path, runs in found.items():
        medians[path] = [statistics.median(run[i] for run in runs) for i in (0, 1)]
        ratios[path] = [
            statistics.median(run[i] / one[i] for run, one in zip(runs, first, strict=True)) for i in (0, 1)
        ]
    print(f"{'file':<28}{'GB':>7}{'prefill':>9}{'decode':>8}   of the first: prefill, decode")
    for path, (prefill, decode) in medians.items():
        print(f"{path.name:<28}{path.stat().st_size / 1e9:>7.2f}{prefill:>9.2f}{decode:>8.2f}", end="")
        print(f"{ratios[path][0]:>14.3f}{ratios[path][1]:>8.3f}")
    runs = {path.name: {"runs": found[path], "ratios": ratios[path]} for path in options.files}
    print(json.dumps({"prompt": options.prompt, "tokens": options.tokens, "threads": options.threads, "files": runs}))


if __name__ == "__main__":
    main()
