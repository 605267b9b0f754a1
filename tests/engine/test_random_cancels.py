"""Two hundred requests at once, many cancelled at random points: the others notice nothing, and nothing stays behind.

ik_llama.cpp has no cache of f32, so there the texts are not compared: what one answer rounds to may depend on others.
What is sent and which answers are cancelled where is drawn from a seed; the moment a cancel falls into depends on the
machine, so the test counts that all phases were hit. Weights and cache are f32, where a batch's company does not change
its results.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.sequence import Sequence
from glm_edge.generation import Generation
from glm_edge.types import Chunk, EngineConfig, Message, Request, RuntimeName, SamplingParams

REQUESTS, AT_ONCE, SLOTS, N_CTX = 200, 16, 3, 1024
WORDS = ["time", "house", "river", "letter", "morning", "garden", "window", "music", "people", "water"]


@dataclass(frozen=True)
class Planned:
    """A request and when it is cancelled: while it waits, in its prompt after graph nodes, or after chunks."""

    request: Request
    cancel: str  # "", "queued", "prefill" or "decode"
    after: int


def plan(seed: int) -> list[Planned]:
    draw = random.Random(seed)
    planned = []
    for i in range(REQUESTS):
        # a third begin alike, so that prefixes are shared with answers that may be cancelled
        start = "you are kind and brief " * 8 if i % 3 == 0 else f"{i} "
        text = start + " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))
        sampling = SamplingParams(draw.choice([0, 0.8, 1.2]), draw.choice([0.8, 1.0]), seed=i)
        request = Request((Message("user", text),), sampling, draw.randint(1, 24))
        cancel = draw.choice(["", "", "", "queued", "prefill", "decode"])
        planned.append(Planned(request, cancel, draw.randint(0, 150 if cancel == "prefill" else 12)))
    return planned


def answer_to(engine: LlamaEngine, one: Planned) -> list[Chunk]:
    """The chunks of an answer whose reader leaves as planned."""
    generation = engine.submit(one.request)
    chunks: list[Chunk] = []
    if one.cancel == "queued":
        generation.cancel()
    elif one.cancel == "prefill":
        chunks += cancel_in_prompt(engine, generation, one.after)
    for chunk in generation:
        chunks.append(chunk)
        if one.cancel == "decode" and len(chunks) > one.after:
            generation.cancel()
    return chunks


def cancel_in_prompt(engine: LlamaEngine, generation: Generation[Chunk], nodes: int) -> list[Chunk]:
    """Cancel once the engine has computed so many graph nodes since it began; returns a chunk that came before."""
    chunks: list[Chunk] = []
    until: int | None = None
    while not chunks and (until is None or engine.steps < until):
        if until is None and generation.started:
            until = engine.steps + nodes
        with suppress(TimeoutError):
            chunk = generation.get(timeout=0.0005)
            assert chunk is not None  # the last one says why it ended, and is one
            chunks.append(chunk)
    generation.cancel()
    return chunks


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def phase(chunks: list[Chunk]) -> str:
    """Where an answer ended."""
    stats = chunks[-1].stats
    assert stats is not None
    if chunks[-1].finish_reason != "cancelled":
        return "whole"
    return "decode" if stats.completion_tokens else "prefill" if stats.prefill_s else "queued"


@pytest.fixture(scope="module")
def engine(tiny_f32: Path, runtime_name: RuntimeName) -> Iterator[LlamaEngine]:
    engine = opened(tiny_f32, SLOTS, runtime_name)
    yield engine
    engine.close()


def opened(model: Path, slots: int, runtime: RuntimeName) -> LlamaEngine:
    config = EngineConfig(model, n_ctx=N_CTX, n_threads=1, n_batch=32, runtime=runtime, slots=slots, queue=AT_ONCE)
    return LlamaEngine(replace(config, kv_type="f32") if runtime == "llama" else config)


def answers_alone(model: Path, planned: list[Planned]) -> list[str]:
    """By an engine of their own, so that nothing of them is known to the one that is tested."""
    engine = opened(model, 1, "llama")
    whole = [text(list(engine.submit(one.request))) for one in planned]
    engine.close()
    return whole


def alive() -> list[object]:
    """What an answer is made of: half a MiB to draw with, and what its reader has not taken."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Sequence | Sampler | Generation)]


def test_random_cancels_change_no_other_answer_and_leave_nothing_behind(
    engine: LlamaEngine, tiny_f32: Path, runtime_name: RuntimeName
) -> None:
    others = alive()  # of engines that other tests left open
    planned = plan(seed=5)
    whole = answers_alone(tiny_f32, planned) if runtime_name == "llama" else []
    with ThreadPoolExecutor(AT_ONCE) as readers:
        answers = list(readers.map(lambda one: answer_to(engine, one), planned))
        list(readers.map(lambda one: answer_to(engine, one), planned))  # whose prefixes are known by now
    wrong = []
    for i, (one, expected, chunks) in enumerate(zip(planned, whole, answers, strict=False)):
        got = text(chunks)
        if not (expected.startswith(got) if phase(chunks) != "whole" else got == expected):
            wrong.append((i, one.cancel, expected, got))
    assert wrong == []
    phases = Counter(phase(chunks) for chunks in answers)
    assert phases["whole"] >= REQUESTS // 3
    assert min(phases[name] for name in ("queued", "prefill", "decode")) >= 5, phases

    # the engine's thread may still have the last ones at hand
    assert len([thing for thing in alive() if all(thing is not old for old in others)]) <= 3 * SLOTS


def test_after_them_all_slots_and_the_whole_cache_are_there(engine: LlamaEngine) -> None:
    endless = [Request((Message("user", f"go on {i}"),), SamplingParams(1.2, seed=i)) for i in range(SLOTS)]
    running = [engine.submit(request) for request in endless]
    first = [generation.get(timeout=10) for generation in running]
    assert [chunk.finish_reason for chunk in first if chunk is not None] == [None] * SLOTS  # all at the same time
    for generation in running:
        generation.cancel()
        list(generation)
    stats = list(engine.submit(Request((Message("user", "water " * 980),), SamplingParams(0))))[-1].stats
    assert stats is not None
    assert stats.prompt_tokens + stats.completion_tokens == N_CTX
