"""Drafts: tokens a step, and the speed that means on devices whose batches cost what is given.

    python tests/benchmarks/drafts.py --model F.gguf                  # at the costs of two machines
    python tests/benchmarks/drafts.py --model F.gguf --measure 90     # and at those of this one: 90 s of batches
    python tests/benchmarks/drafts.py --model F.gguf --answer         # and what the model itself writes

The texts of `support/draft_texts.jsonl` are questions with given answers: "teacher forcing", that is, what would be
accepted if the model wrote exactly these. Each kind is a client of its own, whose earlier answers are known. Of the
model only the tokenizer is used for them, so take one with ChatGLM2's vocabulary: the demo's tokens are shorter.
"Speed" is the time of all steps without drafts over that with them, where the costs are known from before: to learn
them takes two batches each of 4, 8 and 16 tokens, once after each start. With --answer the demo's questions are asked
with and without drafts, the texts must be equal, and their steps are counted in the same way.
Not covered: the time that drafting itself takes; it is printed last, in microseconds a token. Several answers at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from glm_edge.engine.automaton import SuffixAutomaton
from glm_edge.engine.drafts import Histories
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.text.prompt import prompt_text, rounds
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.system.device import processors
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.draft_clock import FULL_SIZE, Costs, Steps, simulate

SUPPORT = Path(__file__).resolve().parents[1] / "support"
FOUR_FREE = {1: 0.100, 4: 0.100, 8: 0.200, 16: 0.400}  # four rows cost what one costs
SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16)  # of the batches that are measured
Talk = list[tuple[str, str]]  # what is before an answer, and the answer


def lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SUPPORT / name).read_text("utf-8").splitlines() if line]


def given() -> dict[str, Talk]:
    """The given answers by their kind."""
    talks: dict[str, Talk] = {}
    for line in lines("draft_texts.jsonl"):
        before = prompt_text(*rounds((Message("user", line["prompt"]),)))
        talks.setdefault(line["kind"], []).append((before, line["answer"]))
    return talks


def ask(engine: LlamaEngine, *messages: Message) -> tuple[str, str]:
    """(what is before the answer, the answer), greedy."""
    answer = "".join(chunk.text for chunk in engine.submit(Request(messages, SamplingParams(0), 200)))
    return prompt_text(*rounds(messages)), answer


def written(model: Path) -> dict[str, Talk]:
    """The model's own answers to questions asked once, and asked again in the same conversation."""
    found = []
    for lookup in (True, False):
        engine = LlamaEngine(EngineConfig(model, prompt_lookup=lookup))
        once, again = list[tuple[str, str]](), list[tuple[str, str]]()
        for line in lines("demo_prompts.jsonl")[:60]:
            question = Message("user", line["prompt"])
            once.append(ask(engine, question))
            again.append(ask(engine, question, Message("assistant", once[-1][1]), question))
        engine.close()
        found.append({"demo, asked once": once, "demo, asked again": again})
    if found[0] != found[1]:
        raise SystemExit("drafts changed an answer")
    return found[0]


def measured(path: Path, seconds: float) -> Costs:
    """Median seconds of batches of one answer after 256 tokens, each size in turn."""
    model, threads = Model(path), processors().best
    context = Context(
        model,
        n_ctx=512,
        n_batch=64,
        n_sequences=2,
        n_outputs=max(SIZES),
        n_threads=threads,
        n_threads_batch=threads,
    )
    batch, took = Batch(64), {n: list[float]() for n in SIZES}

    def compute(n: int, start: int, *, logits: bool) -> float:
        batch.clear()
        for place in range(start, start + n):
            batch.add(1000 + place, place, 0, logits=logits)
        began = time.perf_counter()
        context.decode(batch)
        return time.perf_counter() - began

    for start in range(0, 256, 64):
        compute(64, start, logits=False)
    began = time.monotonic()
    while not took[1] or time.monotonic() - began < seconds:
        for n in SIZES:
            took[n].append(compute(n, 256, logits=True))
            context.remove(0, 256)
    context.close()
    model.close()
    return {n: round(statistics.median(each), 4) for n, each in took.items()}


def total(talk: Talk, ids: Callable[[str], list[int]], costs: Costs) -> Steps:
    """All answers of one client, on a device that knows what batches cost."""
    latency, histories, result = LatencyModel(rows_of_four=True), Histories(), Steps()
    for n in [*costs, *costs]:
        latency.measure(n, costs[n])
    for before, answer in talk:
        one = simulate(ids(before), ids(answer), latency, costs, histories)
        for field in vars(result):
            setattr(result, field, getattr(result, field) + getattr(one, field))
    return result


def microseconds(tokens: list[int]) -> float:
    """What the automaton takes a token."""
    began, automaton = time.perf_counter(), SuffixAutomaton()
    for token in tokens:
        automaton.extend(token)
        automaton.repeated()
    return (time.perf_counter() - began) / len(tokens) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--measure", type=float, metavar="SECONDS", help="measure this machine's batches for so long")
    parser.add_argument("--costs", help="tokens in a batch:milliseconds, measured elsewhere, as 1:110,4:280,8:540")
    parser.add_argument("--answer", action="store_true", help="let the model answer, too: the demo")
    options = parser.parse_args()
    devices: dict[str, Costs] = {"2 cores, Q4_0": FULL_SIZE, "4 rows as 1": FOUR_FREE}
    if options.costs:
        pairs = [pair.split(":") for pair in options.costs.split(",")]
        devices["given"] = {int(n): float(ms) / 1000 for n, ms in pairs}
    if options.measure:
        devices["this machine"] = measured(options.model, options.measure)
    talks = {**given(), **(written(options.model) if options.answer else {})}
    model = Model(options.model, vocab_only=True)

    def ids(text: str) -> list[int]:
        return [token for part, _ in model.tokenize_slices(text) for token in part]

    print(f"{'costs':<15}{'text':<27}{'tokens':>7}{'steps':>6}{'a step':>8}{'drafted':>8}{'held':>6}{'speed':>7}")
    results = []
    for device, costs in devices.items():
        for name, talk in talks.items():
            found = total(talk, ids, costs)
            rate = found.tokens / found.steps
            print(
                f"{device:<15}{name:<27}{found.tokens:>7}{found.steps:>6}{rate:>8.2f}{found.drafted:>8}{found.held:>6}"
                f"{found.speedup:>7.2f}"
            )
            results.append({"costs": device, "text": name, "tokens_a_step": rate, "speed": found.speedup})
    automaton_us = microseconds(
        [token for talk in talks.values() for pair in talk for text in pair for token in ids(text)]
    )
    model.close()
    print(
        json.dumps({"model": options.model.name, "costs_s": devices, "results": results, "automaton_us": automaton_us})
    )


if __name__ == "__main__":
    main()
