"""Times the sampling of a token out of 65,024, and tests 100,000 draws against the exact distribution.

    python tests/benchmarks/sampling.py                # times, then the chi-square test
    python tests/benchmarks/sampling.py --draws 0      # times only

Logits are Gaussian: "flat" at a deviation of 0.01 (no token stands out), "soft" at 1 (what random weights give) and
"peaked" at 3 (a few tokens hold most of the mass, as in a trained model). Time is one `Sampler.sample` on one thread,
after a warm-up; of all repeats the least, the median and the 95th of 100. The machine's other work shows in the last.
Not covered: answers in a format; see json_schemas.py.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.types import SamplingParams
from support.engines.sampling_distribution import chi_square as pearson
from support.engines.sampling_distribution import exact, surprise

N_VOCAB = 65_024
SPREADS = {"flat": 0.01, "soft": 1.0, "peaked": 3.0}
CASES = {
    "greedy": SamplingParams(0),
    "greedy, repetition 1.1": SamplingParams(0, repetition_penalty=1.1),
    "temperature 0.8": SamplingParams(0.8, 1.0, 1),
    "top_p 0.8": SamplingParams(0.8, 0.8, 1),
    "top_p 0.1": SamplingParams(0.8, 0.1, 1),
    "top_k 40, top_p 0.8": SamplingParams(0.8, 0.8, 1, top_k=40),
    "top_p 0.9, min_p 0.05": SamplingParams(0.8, 0.9, 1, min_p=0.05),
    "all penalties, top_p 0.8": SamplingParams(0.8, 0.8, 1, 0, 0.0, 0.5, 0.5, 1.1, {5: 1.0, 6: -1.0}),
    "top_p 0.8, 5 logprobs": SamplingParams(0.8, 0.8, 1, logprobs=True, top_logprobs=5),
}
CHECKED = ["temperature 0.8", "top_p 0.8", "top_k 40, top_p 0.8", "top_p 0.9, min_p 0.05"]


def logits(spread: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (np.random.default_rng(0).standard_normal(N_VOCAB) * spread).astype(np.float32)


def times(params: SamplingParams, spread: float, repeats: int) -> dict[str, float]:
    """Milliseconds a token, with a prompt of 1,000 tokens and an answer of 200 before it."""
    sampler, row = Sampler(params, prompt=range(1000)), logits(spread)
    for token in range(2000, 2200):
        sampler.accept(token)
    taken = []
    for _ in range(repeats + 50):
        began = time.perf_counter()
        sampler.sample(row)
        taken.append((time.perf_counter() - began) * 1e3)
    least, median, p95 = np.percentile(taken[50:], [0, 50, 95])
    return {"min": round(least, 4), "p50": round(median, 4), "p95": round(p95, 4)}


def chi_square(params: SamplingParams, spread: float, seed: int, draws: int) -> dict[str, float]:
    """Pearson's test of `draws` draws: statistic, degrees of freedom, deviations, how often chance alone is as far."""
    sampler, row = Sampler(replace(params, seed=seed)), logits(spread)
    counts = np.bincount([sampler.sample(row) for _ in range(draws)], minlength=N_VOCAB)
    expected = exact(row, params)
    chi2, freedom = pearson(counts, expected)
    z = surprise(counts, expected)
    return {
        "chi2": round(chi2, 1),
        "freedom": freedom,
        "deviations": round(z, 3),
        "p": round(math.erfc(z / math.sqrt(2)) / 2, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the first chi-square test; the others count on from it")
    parser.add_argument("--draws", type=int, default=100_000, help="for each chi-square test; 0 for none")
    options = parser.parse_args()
    result: dict[str, object] = {
        "candidates": N_VOCAB,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    print(f"{'ms a token':<26}{'logits':<9}{'min':>8}{'p50':>8}{'p95':>8}")
    timed: dict[str, dict[str, dict[str, float]]] = {}
    for name, params in CASES.items():
        for kind, spread in SPREADS.items():
            t = timed.setdefault(name, {})[kind] = times(params, spread, options.repeats)
            print(f"{name:<26}{kind:<9}{t['min']:>8.3f}{t['p50']:>8.3f}{t['p95']:>8.3f}", flush=True)
    result["ms"] = timed
    if options.draws:
        print(
            f"\n{f'chi square, {options.draws} draws':<26}{'logits':<9}{'chi2':>9}{'df':>7}{'deviations':>12}{'p':>8}"
        )
        tested: dict[str, dict[str, dict[str, float]]] = {}
        for seed, (name, kind) in enumerate(product(CHECKED, SPREADS), options.seed):
            c = tested.setdefault(name, {})[kind] = chi_square(CASES[name], SPREADS[kind], seed, options.draws)
            print(
                f"{name:<26}{kind:<9}{c['chi2']:>9.1f}{c['freedom']:>7}{c['deviations']:>12.3f}{c['p']:>8.4f}",
                flush=True,
            )
        result["draws"], result["chi_square"] = options.draws, tested
    print(json.dumps(result))


if __name__ == "__main__":
    main()
