"""Prompt lookup: the same answers in fewer steps where text repeats, and no drafts where they do not hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.latency import LatencyModel
from glm_edge.engine.lookup import Lookup
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.lookup_clock import FULL_SIZE, simulate

DRAW = random.Random(3)
PARAGRAPH = [DRAW.randrange(60_000) for _ in range(120)]


def test_repeating_text_takes_a_fraction_of_the_steps() -> None:
    found = simulate([1, 2, *PARAGRAPH, 3], PARAGRAPH, LatencyModel(), FULL_SIZE)
    assert found.tokens / found.steps > 3
    assert found.speedup > 1.3
    assert found.held == found.drafted


def test_text_without_repeats_costs_nothing() -> None:
    found = simulate([1, 2], PARAGRAPH, LatencyModel(), FULL_SIZE)
    assert found.drafted == 0
    assert found.speedup == pytest.approx(1)


def test_drafts_stop_when_they_do_not_hold() -> None:
    # the same three tokens come again and again, and each time something else follows
    answer = [token for i in range(300) for token in (7, 8, 9, 1000 + i)]
    found = simulate([7, 8, 9], answer, LatencyModel(), FULL_SIZE)
    assert found.held == 0
    assert found.drafted < 0.05 * found.tokens
    assert found.speedup > 0.98


def test_drafts_come_back_when_text_repeats_after_all() -> None:
    answer = [token for i in range(60) for token in (7, 8, 9, 1000 + i)]
    latency = LatencyModel()
    found = simulate([], [*answer, *PARAGRAPH * 12], latency, FULL_SIZE)
    assert found.held > 3 * len(PARAGRAPH)


def test_no_draft_where_several_tokens_cost_as_much_as_one_by_one() -> None:
    dear = {1: 0.1, 4: 0.4, 8: 0.8}
    found = simulate([*PARAGRAPH], PARAGRAPH, LatencyModel(), dear)
    assert found.drafted <= 3 + 7  # each size is tried once
    assert found.speedup > 0.98


def test_a_draft_never_has_more_than_there_is_room_for() -> None:
    latency = LatencyModel()
    for n in (1, 4, 8):
        latency.measure(n, 0.1)
    tokens = [*PARAGRAPH, *PARAGRAPH[:10]]
    assert [len(Lookup(tokens, latency).draft(room)) for room in (0, 2, 3, 6, 7, 20)] == [0, 0, 3, 3, 7, 7]


@pytest.mark.parametrize("temperature", [0, 0.7], ids=["greedy", "sampled"])
def test_answers_are_the_same_with_and_without_it(tiny_f32: Path, temperature: float) -> None:
    def answers(lookup: bool) -> tuple[list[str], int]:
        engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", prompt_lookup=lookup))
        texts, drafted = [], 0
        for seed in range(4):
            # a biased token makes even the tiny model repeat itself
            sampling = SamplingParams(temperature, seed=seed, logit_bias={300 + seed: 14.0, 900: 13.0})
            chunks = list(engine.submit(Request((Message("user", "one two three " * 9),), sampling, 60)))
            texts.append("".join(chunk.text for chunk in chunks))
            stats = chunks[-1].stats
            assert stats is not None
            drafted += stats.drafted_tokens
        engine.close()
        return texts, drafted

    with_it, drafted = answers(lookup=True)
    without, none = answers(lookup=False)
    assert with_it == without
    assert drafted > 0 == none
