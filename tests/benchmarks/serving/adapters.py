"""What adapters cost at full size: bytes, time to load, and decode with one against without at as many used cells.

    python tests/benchmarks/serving/adapters.py MODEL.gguf [--adapters 10] [--cells 128] [--rounds 12]

The adapters are made up: random keys and values in the model's shape. The prompt without an adapter is longer by the
adapter's cells. The two answers come in turn, of 8 tokens each, and the order changes with every round; the figure is
the median of the rounds' ratios. Both prompts are computed before: the rounds find them in the prefix store.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.convert.adapter import convert_adapter
from glm_edge.engine.engine import LlamaEngine
from glm_edge.model.adapter import shape_of
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Request, SamplingParams
from support.checkpoints.tuned_checkpoint import random_encoder, write_tuned

PROMPT, ANSWER = 64, 8  # tokens


def decode(engine: LlamaEngine, prompt: tuple[int, ...], adapter: str | None) -> float:
    """Tokens a second."""
    never = {engine.model.eos: -100.0}
    request = Request((), SamplingParams(0, logit_bias=never), ANSWER, prompts=(prompt,), adapter=adapter)
    stats = list(engine.submit(request))[-1].stats
    assert stats is not None
    assert stats.completion_tokens == ANSWER
    return stats.decode_rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--cells", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    shape = shape_of(read_gguf(options.model))
    config = {
        "num_layers": shape.layers,
        "multi_query_group_num": shape.groups,
        "kv_channels": shape.head,
        "hidden_size": shape.hidden,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "adapters")
        folder.mkdir()
        settings = EngineConfig(
            options.model, n_ctx=1024, n_threads=options.threads, prompt_lookup=False, adapters=(("", folder),)
        )
        engine = LlamaEngine(settings)  # with no adapter yet
        for n in range(options.adapters):
            source = write_tuned(Path(temporary, f"source-{n}"), random_encoder(config, options.cells, seed=n))
            file = convert_adapter(source, options.model, folder / f"a{n}.gguf").path
        print(f"files: {file.stat().st_size / 1e6:.2f} MB each")
        before = psutil.Process().memory_info().rss
        began = time.perf_counter()
        engine.reload_adapters()
        seconds = time.perf_counter() - began
        grown = psutil.Process().memory_info().rss - before
        print(
            f"{options.adapters} loaded in {seconds:.2f} s; memory grew by {grown / options.adapters / 1e6:.2f} MB each"
        )
        draw = np.random.default_rng(1)
        ids = tuple(int(n) for n in draw.integers(300, min(512, engine.model.n_vocab), PROMPT + options.cells))
        turns = ((ids[:PROMPT], "a0"), (ids, None))  # with one, and without
        rates = [decode(engine, *turn) for turn in turns]
        ratios = []
        for n in range(options.rounds):
            for turn in (0, 1) if n % 2 else (1, 0):
                rates[turn] = decode(engine, *turns[turn])
            ratios.append(rates[0] / rates[1])
            print(f"decode with {rates[0]:.2f} tokens/s, without {rates[1]:.2f}; ratio {ratios[-1]:.3f}", flush=True)
        cells = PROMPT + options.cells + ANSWER
        print(f"median ratio {statistics.median(ratios):.3f} at {cells} used cells")
        engine.close()


if __name__ == "__main__":
    main()
