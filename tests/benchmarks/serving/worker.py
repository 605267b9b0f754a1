"""What the engine in a child process costs, against the same engine in this process: milliseconds a token.

    python tests/benchmarks/serving/worker.py                    # the demo model, 1 and 4 streams at once
    python tests/benchmarks/serving/worker.py --model FILE --tokens 64 --pairs 5

Both engines are loaded in one run and take turns, the first of a pair being last in the next. A turn reads `streams`
answers of exactly `tokens` tokens, each in a thread of its own, greedy, end of text forbidden. A turn's figure is the
mean time between two tokens, from a stream's first chunk to its last, over all streams; the cost is the median of the
differences within pairs. First token: from submit to the first chunk, the prompt being in the cache. CPU: time of all
processes, a token. Prompt lookup is off, or a chunk would not be a token.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.cli.demo import demo_model
from glm_edge.engine.engine import LlamaEngine
from glm_edge.system.device import machine, processors
from glm_edge.types import Engine, EngineConfig, Message, Request, SamplingParams
from glm_edge.worker import Worker
from support.engines.crashing_engines import real

EOS = 2
Turn = tuple[float, float, float]  # ms between tokens, ms to the first, CPU ms a token


def request(tokens: int, stream: int) -> Request:
    question = f"请介绍一下你自己，第{stream}遍。"
    return Request((Message("user", question),), SamplingParams(0, logit_bias={EOS: -100.0}), tokens)


def cpu_s() -> float:
    """Seconds of this process and its children so far."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children())]
    return sum(t.user + t.system for t in times)


def stream(engine: Engine, tokens: int, number: int, out: list[tuple[float, float]]) -> None:
    """Read one answer; (seconds to the first chunk, seconds between two tokens)."""
    began = time.perf_counter()
    generation = engine.submit(request(tokens, number))
    generation.get()
    first = last = time.perf_counter()
    while (chunk := generation.get()) is not None:
        last = time.perf_counter()
        stats = chunk.stats
    if stats is None or stats.completion_tokens != tokens:
        raise SystemExit(f"an answer has not the {tokens} tokens that it was to have")
    out.append((first - began, (last - first) / (tokens - 1)))


def turn(engine: Engine, tokens: int, streams: int) -> Turn:
    read: list[tuple[float, float]] = []
    threads = [threading.Thread(target=stream, args=(engine, tokens, i, read)) for i in range(streams)]
    before = cpu_s()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = cpu_s() - before
    if len(read) != streams:
        raise SystemExit("a stream failed")
    first, between = (1e3 * statistics.mean(column) for column in zip(*read, strict=True))
    return between, first, 1e3 * used / (tokens * streams)


def compare(here: Engine, there: Engine, tokens: int, streams: int, pairs: int) -> dict[str, float]:
    """Milliseconds; the cost is what `there` takes beyond `here`."""
    turns: dict[Engine, list[Turn]] = {here: [], there: []}
    for engine in (here, there):
        turn(engine, tokens, streams)  # caches, processor clocks
    for number in range(pairs):
        for engine in (here, there)[:: -1 if number % 2 else 1]:
            turns[engine].append(turn(engine, tokens, streams))
    differences = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(*turns.values(), strict=True)]
    costs = [sorted(column) for column in zip(*differences, strict=True)]
    result: dict[str, float] = {"streams": streams}
    for i, name in enumerate(("token_ms", "first_ms", "cpu_ms")):
        for place, engine in (("in_process", here), ("worker", there)):
            result[f"{place}_{name}"] = statistics.median(row[i] for row in turns[engine])
        result[f"cost_{name}"] = statistics.median(costs[i])
    quarter = pairs // 4
    result["cost_token_ms_quartiles"] = [round(costs[0][quarter], 4), round(costs[0][-1 - quarter], 4)]  # type: ignore[assignment]
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model without it")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, help="of the engine; as many as it takes by itself without it")
    options = parser.parse_args()
    model = options.model or demo_model()
    config = EngineConfig(model, n_threads=options.threads, slots=max(options.streams), prompt_lookup=False)
    here, there = LlamaEngine(config), Worker(partial(real, config))
    rows = [compare(here, there, options.tokens, streams, options.pairs) for streams in options.streams]
    here.close()
    there.close()
    print("streams   in process      worker        cost   (quartiles)        first token: cost   CPU: cost")
    for row in rows:
        low, high = row["cost_token_ms_quartiles"]  # type: ignore[misc]
        print(
            f"{row['streams']:7}   {row['in_process_token_ms']:7.3f} ms  {row['worker_token_ms']:7.3f} ms"
            f"  {row['cost_token_ms']:+7.3f} ms   ({low:+.3f}, {high:+.3f})   {row['cost_first_ms']:+10.3f} ms"
            f"   {row['cost_cpu_ms']:+7.3f} ms"
        )
    about = {"model": model.name, "tokens": options.tokens, "pairs": options.pairs, "python": platform.python_version()}
    about |= {"threads": options.threads or processors().best, "machine": machine()}
    print(json.dumps({"rows": rows, **about}))


if __name__ == "__main__":
    sys.exit(main())
