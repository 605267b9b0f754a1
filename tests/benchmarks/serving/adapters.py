"""What adapters cost at full size: bytes, time to load, and decode with one against without at as many used cells.

    python tests/benchmarks/serving/adapters.py MODEL.gguf [--adapters 10] [--cells 128] [--rounds 5]

The adapters are made up: random keys and values in the model's shape. The two decodes are measured in turn in one
process; the figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.convert.adapter import convert_adapter
from glm_edge.engine.engine import LlamaEngine
from glm_edge.model.adapter import shape_of
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.checkpoints.tuned_checkpoint import random_encoder, write_tuned

TOKENS = 48  # of an answer


def decode(engine: LlamaEngine, text: str, adapter: str | None) -> tuple[float, int, float]:
    """(tokens a second, cells used at the end, seconds to the first token)."""
    never = {engine.model.eos: -100.0}
    request = Request((Message("user", text),), SamplingParams(0, logit_bias=never), TOKENS, adapter=adapter)
    stats = list(engine.submit(request))[-1].stats
    assert stats is not None
    return stats.decode_rate, stats.prompt_tokens + stats.completion_tokens, stats.prefill_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--cells", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
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
        folder = Path(temporary)
        made = []
        for n in range(options.adapters):
            source = write_tuned(folder / f"source-{n}", random_encoder(config, options.cells, seed=n))
            made.append((f"a{n}", convert_adapter(source, options.model, folder / f"a{n}.gguf").path))
        print(f"files: {made[0][1].stat().st_size / 1e6:.2f} MB each")
        plain = EngineConfig(options.model, n_ctx=2048, n_threads=options.threads, prompt_lookup=False)
        engine = LlamaEngine(plain)
        before = psutil.Process().memory_info().rss
        engine._config = EngineConfig(options.model, adapters=tuple(made))  # what a reload would find
        began = time.perf_counter()
        engine.reload_adapters()
        seconds = time.perf_counter() - began
        grown = psutil.Process().memory_info().rss - before
        print(
            f"{options.adapters} loaded in {seconds:.2f} s; memory grew by {grown / options.adapters / 1e6:.2f} MB each"
        )
        ratios = []
        for n in range(options.rounds):
            with_one = decode(engine, f"{n} " * 8, f"a{n % options.adapters}")
            cells = with_one[1] + options.cells
            text = "一" * (options.cells + 8)
            without = decode(engine, f"{n}{text}", None)
            ratios.append(with_one[0] / without[0])
            print(
                f"decode with {with_one[0]:.2f} tokens/s at {cells} cells, without {without[0]:.2f} at {without[1]};"
                f" ratio {ratios[-1]:.3f}; first token with {with_one[2]:.2f} s"
            )
        print(f"median ratio {statistics.median(ratios):.3f}")
        engine.close()


if __name__ == "__main__":
    main()
