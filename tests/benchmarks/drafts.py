"""Drafts: tokens a step, and the speed-up that means on a device whose steps cost what is given.

    python tests/benchmarks/drafts.py --model F.gguf                           # costs of ChatGLM2-6B on 2 cores
    python tests/benchmarks/drafts.py --model F.gguf --costs 1:110,4:280,8:540  # ms a step, measured elsewhere

"repeated" are the model's own greedy answers when a question is asked again in one conversation, as "asked once" when
it is not; "prose" is this project's README, written as if it were an answer. The first two are answered with lookup
and without, and the texts must be equal; the steps are counted by what lookup decides at the costs given, not at
those of this machine, over the ids of the text. "Implied" is the time of all steps without lookup over that with it.
Not covered: several answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.text.prompt import prompt_text, rounds
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.draft_clock import FULL_SIZE, Steps, simulate

TESTS = Path(__file__).resolve().parents[1]
Pairs = list[tuple[str, str]]  # what was before an answer, and the answer


def ask(engine: LlamaEngine, messages: tuple[Message, ...]) -> str:
    return "".join(chunk.text for chunk in engine.submit(Request(messages, SamplingParams(0), 200)))


def answers(engine: LlamaEngine, questions: list[str]) -> tuple[Pairs, Pairs]:
    """Of questions asked once, and asked again in the same conversation."""
    once, again = [], []
    for question in questions:
        first = (Message("user", question),)
        text = ask(engine, first)
        once.append((prompt_text(*rounds(first)), text))
        second = (*first, Message("assistant", text), *first)
        again.append((prompt_text(*rounds(second)), ask(engine, second)))
    return once, again


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--costs", help="tokens in a step:milliseconds; 1 and 8 among them, 4 better too")
    options = parser.parse_args()
    pairs = [pair.split(":") for pair in (options.costs or "").split(",") if pair]
    seconds = {int(n): float(ms) / 1000 for n, ms in pairs} or FULL_SIZE
    lines = (TESTS / "support" / "demo_prompts.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line)["prompt"] for line in lines if line][:60]
    found: list[tuple[Pairs, Pairs]] = []
    for lookup in (True, False):
        engine = LlamaEngine(EngineConfig(options.model, prompt_lookup=lookup))
        found.append(answers(engine, questions))
        if lookup:
            tokenize = engine.tokenize
            prose = (TESTS.parent / "README.md").read_text("utf-8")
            ids = {text: tokenize(text) for text in [prose, *{t for part in found[0] for pair in part for t in pair}]}
        engine.close()
    if found[0] != found[1]:
        raise SystemExit("lookup changed an answer")
    texts = {"repeated": found[0][1], "asked once": found[0][0], "prose": [("", prose)]}
    ids[""] = []
    print(f"{'text':<12}{'tokens':>8}{'steps':>7}{'a step':>8}{'drafted':>9}{'held':>6}{'implied':>9}")
    result: dict[str, dict[str, float]] = {}
    for name, written in texts.items():
        latency, total = LatencyModel(), Steps()
        for before, text in written:
            one = simulate(ids[before], ids[text], latency, seconds)
            for field in vars(total):
                setattr(total, field, getattr(total, field) + getattr(one, field))
        rate = total.tokens / total.steps
        print(
            f"{name:<12}{total.tokens:>8}{total.steps:>7}{rate:>8.3f}{total.drafted:>9}{total.held:>6}"
            f"{total.speedup:>9.3f}"
        )
        result[name] = {**vars(total), "tokens_a_step": rate, "implied": total.speedup}
    print(json.dumps({"model": options.model.name, "costs_s": seconds, **result}))


if __name__ == "__main__":
    main()
