"""Drafts: the same answers in fewer steps where text repeats, and none where they do not hold or cost too much."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from glm_edge.engine.drafts import MAX_DRAFT, Drafter, Guess, Histories, History, choose
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.latency import LatencyModel
from glm_edge.types import BatchCosts, EngineConfig, Message, Request, SamplingParams
from support.engines.draft_clock import FULL_SIZE, simulate

DRAW = random.Random(3)
PARAGRAPH = [DRAW.randrange(60_000) for _ in range(120)]
FREE = {1: 0.1, 4: 0.1, 8: 0.2, 16: 0.4}  # seconds of batches; four rows cost as much as one


def measured(seconds: dict[int, float]) -> LatencyModel:
    latency = LatencyModel()
    for n in [*seconds, *seconds]:
        latency.measure(n, seconds[n])
    return latency


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
    assert found.speedup > 0.98


def test_drafts_come_back_when_text_repeats_after_all() -> None:
    answer = [token for i in range(60) for token in (7, 8, 9, 1000 + i)]
    found = simulate([], [*answer, *PARAGRAPH * 12], LatencyModel(), FULL_SIZE)
    assert found.held > 3 * len(PARAGRAPH)


def test_no_draft_where_several_tokens_cost_as_much_as_one_by_one() -> None:
    found = simulate([*PARAGRAPH], PARAGRAPH, LatencyModel(), {1: 0.1, 16: 1.6})
    assert found.drafted <= 2 * (3 + 7 + 15)  # each size is tried twice
    assert found.speedup > 0.98


def test_costs_of_a_tuning_are_taken_as_they_are() -> None:
    """No batch is tried out where several tokens are known to cost as much as one by one, or as much as one."""
    dear, free = {1: 0.1, 4: 0.4, 8: 0.8, 16: 1.6}, {1: 0.1, 4: 0.1, 8: 0.1, 16: 0.1}
    assert simulate([*PARAGRAPH], PARAGRAPH, LatencyModel(dear.items()), dear).drafted == 0
    found = simulate([*PARAGRAPH], PARAGRAPH, LatencyModel(free.items()), free)
    assert found.speedup > simulate([*PARAGRAPH], PARAGRAPH, LatencyModel(), free).speedup


def test_costs_of_a_tuning_are_forgotten_as_others_are_measured() -> None:
    latency = LatencyModel({1: 0.1, 4: 0.1}.items())
    for _ in range(5):
        latency.measure(4, 0.4)
    assert (latency.seconds(1), latency.seconds(4)) == (0.1, 0.4)


def test_a_draft_never_has_more_than_there_is_room_for() -> None:
    drafter = Drafter([*PARAGRAPH, *PARAGRAPH[:40]], len(PARAGRAPH), History())
    free = measured({1: 0.1, 4: 0.1, 8: 0.1, 16: 0.1})
    for room in (0, 2, MAX_DRAFT):
        guess = drafter.guess(room)
        assert choose([guess], free, room) == [PARAGRAPH[40 : 40 + room]]


def test_a_copy_that_reaches_the_end_goes_on_with_itself() -> None:
    assert Drafter([9, *(5, 6, 7) * 12], 0, History()).guess(7).tokens == [5, 6, 7, 5, 6, 7, 5]


def test_answers_share_the_rows_that_are_free() -> None:
    likely, doubtful = Guess([1, 2, 3], [0.9, 0.8, 0.7]), Guess([4, 5, 6], [0.75, 0.3, 0.1])
    costs = {1: 0.1, 2: 0.1, 4: 0.1, 5: 0.3, 8: 0.4, 16: 0.8}
    assert choose([likely, doubtful], measured(costs), MAX_DRAFT) == [[1, 2], []]
    assert choose([doubtful, likely], measured(costs), MAX_DRAFT) == [[], [1, 2]]
    assert choose([doubtful, Guess([], [])], measured(costs), MAX_DRAFT) == [[4, 5], []]
    assert choose([likely, likely, doubtful, doubtful], measured(costs), MAX_DRAFT) == [[], [], [], []]


def test_what_was_written_before_is_drafted_for_the_same_scope_alone() -> None:
    histories, prompt = Histories(), [1, 2, 3]
    histories.add(b"anna", [*prompt, *PARAGRAPH], len(prompt))
    assert Drafter(prompt, len(prompt), histories.of(b"anna")).guess(5).tokens == PARAGRAPH[:5]
    assert Drafter([*prompt, *PARAGRAPH[:40]], len(prompt), histories.of(b"ben")).guess(5) == Guess([], [])
    assert Drafter([*prompt, *PARAGRAPH], len(prompt), histories.of(b"anna")).guess(5) == Guess([], [])  # its end


def test_what_one_scope_learns_of_chances_is_its_own() -> None:
    histories = Histories()
    before = list(histories.of(b"ben").chances)
    simulate([], PARAGRAPH * 3, measured(FREE), FREE, histories)
    assert histories.of(b"").chances != before == histories.of(b"ben").chances


def test_histories_are_bounded() -> None:
    histories = Histories()
    histories.add(b"old", PARAGRAPH, 0)
    for i in range(40):
        histories.add(b"anna", [100_000 + i] * 1000, 0)
    assert 16_000 < len(histories.of(b"anna")) <= 32_768
    assert len(histories.of(b"old")) == len(PARAGRAPH) + 1
    for scope in (b"ben", b"eve", b"old"):
        histories.add(scope, range(30_000), 0)
    assert sum(len(histories.of(scope)) for scope in (b"anna", b"ben", b"eve", b"old")) <= 65_536
    assert len(histories.of(b"anna")) == 0  # the least recently used


def test_an_engine_drafts_nothing_of_another_key(tiny_f32: Path) -> None:
    """The third request must draft, because each size is tried out; the second one has nothing to draft from."""
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1))
    drafted = []
    for scope in (b"a" * 32, b"b" * 32, b"a" * 32):
        request = Request((Message("user", "one two"),), SamplingParams(0), 30, prefix_scope=scope)
        stats = list(engine.submit(request))[-1].stats
        assert stats is not None
        drafted.append(stats.drafted_tokens)
    engine.close()
    assert drafted[0] == drafted[1] == 0 < drafted[2]


@pytest.mark.parametrize("temperature", [0, 0.7], ids=["greedy", "sampled"])
def test_answers_are_the_same_with_and_without_them(tiny_f32: Path, temperature: float) -> None:
    def answers(lookup: bool, costs: BatchCosts | None = None) -> tuple[list[str], int]:
        config = EngineConfig(tiny_f32, n_threads=1, kv_type="f32", slots=2, prompt_lookup=lookup, batch_costs=costs)
        engine = LlamaEngine(config)
        texts, drafted = [], 0
        for n in (1, 1, 2):  # answers at once
            # a biased token makes even the tiny model repeat itself
            sampling = SamplingParams(temperature, seed=n, logit_bias={300 + n: 14.0, 900: 13.0})
            request = Request((Message("user", "one two three " * 9),), sampling, 60)
            for generation in [engine.submit(request) for _ in range(n)]:
                chunks = list(generation)
                texts.append("".join(chunk.text for chunk in chunks))
                stats = chunks[-1].stats
                assert stats is not None
                drafted += stats.drafted_tokens
        engine.close()
        return texts, drafted

    with_it, drafted = answers(lookup=True)
    without, none = answers(lookup=False)
    tuned, _ = answers(lookup=True, costs=BatchCosts(True, tuple((n, 1e-9) for n in (1, 2, 4, 8, 16))))
    assert with_it == tuned == without
    assert drafted > 0 == none
