"""Times constrained sampling: the table of tokens, compiling, masks, and what other answers notice meanwhile.

    python tests/benchmarks/json_schemas.py MODEL.gguf

The schemas are those of the tests. Answers are written by chance, as there. "others" are the times between two chunks
of an answer without a format, while another thread asks for answers in all formats, hostile ones too, and while
nothing else happens. Steps are in processor time, everything else by the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

sys.path.append(str(Path(__file__).resolve().parents[1]))

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import OverloadedError, RequestError
from glm_edge.llama.model import Model
from glm_edge.types import EngineConfig, JsonFormat, Message, Request, SamplingParams
from support.engines.json_schemas import HOSTILE, REFUSED, WORKING
from support.engines.random_answers import RandomAnswers


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    p50, p99, most = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(most, 3)}


def others(engine: LlamaEngine, work: Callable[[], object], tokens: int = 400) -> dict[str, float]:
    """The times between two chunks of an answer without a format, while `work` is done again and again."""
    ended = threading.Event()

    def worker() -> None:
        while not ended.is_set():
            work()

    thread = threading.Thread(target=worker)
    thread.start()
    params = SamplingParams(1.0, seed=1, logit_bias={engine.model.eos: -100})
    times = [time.perf_counter() for _ in engine.submit(Request((Message("user", "x"),), params, tokens))]
    ended.set()
    thread.join()
    return quantiles(np.diff(times).tolist())


def submit_all(engine: LlamaEngine, schemas: dict[str, object]) -> None:
    """Ask for an answer in each format, and leave."""
    for schema in schemas.values():
        params = SamplingParams(response_format=JsonFormat(json.dumps(schema)))
        with suppress(RequestError, OverloadedError):
            engine.submit(Request((Message("user", "x"),), params, 1)).cancel()


def compile_all(answers: RandomAnswers, schemas: dict[str, object]) -> tuple[list[float], list[float]]:
    """Seconds of each schema that compiles, and of each that is refused."""
    compiled, refused = [], []
    for schema in schemas.values():
        began = time.perf_counter()
        try:
            answers.compile(schema)
            compiled.append(time.perf_counter() - began)
        except RequestError:
            refused.append(time.perf_counter() - began)
    return compiled, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    model = Model(options.model, vocab_only=True)
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    answers = RandomAnswers(model)
    answers.compile(True)
    result: dict[str, object] = {"table_s": round(time.perf_counter() - began, 3)}
    result["table_mib"] = round((psutil.Process().memory_info().rss - before) / 2**20, 1)
    everything = {**WORKING, **{name: schema for name, (schema, _) in REFUSED.items()}, **HOSTILE}
    for name, schemas in {"working": WORKING, "all": everything}.items():
        compiled, refused = compile_all(answers, schemas)
        result[name] = {"schemas": len(schemas), "compiled": len(compiled), "compile_ms": quantiles(compiled)}
        if refused:
            result[f"{name}_refuse_ms"] = quantiles(refused)
    for name, schemas in {"step_ms": WORKING, "hostile_step_ms": HOSTILE}.items():
        answers.step_s.clear()
        for schema in schemas.values():
            for seed in range(3):
                try:
                    answers.write(schema, seed, max_tokens=100)
                except RequestError:
                    break
        result[name] = {"tokens": len(answers.step_s), **quantiles(answers.step_s)}
    engine = LlamaEngine(EngineConfig(options.model, n_threads=1, n_ctx=512, slots=2, queue=30))
    result["others_alone_ms"] = others(engine, lambda: time.sleep(0.01))
    result["others_ms"] = others(engine, lambda: submit_all(engine, everything))
    engine.close()
    result["rss_mib"] = round(psutil.Process().memory_info().rss / 2**20)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
