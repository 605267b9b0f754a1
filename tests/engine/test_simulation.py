"""The engine's heart over a simulated llama.cpp: 30,000 steps of clients and faults drawn from seeds, and what they
once found. More by command: `tests/benchmarks/simulate.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from glm_edge.types import SamplingParams
from support.simulation.fake_llama import Fault
from support.simulation.plan import Arrival, Plan, World, draw_plan
from support.simulation.run import Outcome, Simulation
from support.simulation.shrink import failure, report, shrunk

STEPS, RUNS = 700, 60
WORLD = World(2, 4, 96, 16, store_bytes=4096, token_s=0.001, lookup=False, rows_of_four=False)
ONE = Arrival(step=0, key="a", family=0, shared=0, own=10, seed=1, max_tokens=4)


def run(*arrivals: Arrival, faults: tuple[tuple[int, Fault], ...] = (), world: World = WORLD) -> Outcome:
    return Simulation(Plan(world, arrivals, faults, steps=0)).run()


def test_thirty_thousand_steps_keep_every_invariant() -> None:
    turns, events = 0, Counter[str]()
    for seed in range(RUNS):
        plan = draw_plan(seed, STEPS)
        simulation = Simulation(plan)
        try:
            simulation.run()
        except Exception:  # the report says what it was
            pytest.fail(report(seed, plan))
        turns += simulation.outcome.turns
        events += simulation.outcome.events
    assert turns >= 30_000
    rare = {"error", "restore refused"}
    every = {
        "state fails",
        "full",
        "aborted",
        "slow",
        "nan",
        "nan everywhere",
        "no cells",
        "whole",
        "failed",
        "refused",
    }
    leaving = {f"cancel {how}" for how in ("at once", "between batches", "in a batch", "after chunks")}
    assert {name for name, n in events.items() if n >= 20} >= every | leaving, events
    assert rare <= set(events), events


def test_a_seed_replays_a_run_exactly() -> None:
    runs = [Simulation(draw_plan(3, 400)).run() for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].digest


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_one_answer_with_logits_that_are_no_numbers_fails_alone(temperature: float) -> None:
    bad = replace(ONE, sampling=SamplingParams(temperature, top_k=5, seed=1))
    outcome = run(bad, replace(ONE, step=1, family=1, seed=2), faults=((0, Fault("nan everywhere")),))
    assert (outcome.events["failed"], outcome.events["whole"]) == (1, 1)


def test_tokens_that_an_aborted_batch_left_are_computed_again() -> None:
    outcome = run(ONE, faults=((0, Fault("aborted", 0.5)),))
    assert (outcome.events["batch aborted"], outcome.events["whole"]) == (1, 1)


@pytest.mark.parametrize("kind", ["error", "nan"])
def test_a_request_of_several_answers_has_one_end_where_one_fails(kind: str) -> None:
    assert run(replace(ONE, n=2), faults=((1, Fault(kind)),)).events["failed"] == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [0.0, 0.9], ids=["no memory", "too few bytes"])
def test_answers_whose_states_cannot_be_saved_when_the_cache_is_full_are_whole(part: float) -> None:
    several = [replace(ONE, own=40, seed=seed, family=seed, max_tokens=40) for seed in range(2)]
    outcome = run(*several, faults=((0, Fault("state fails", part)),))
    assert outcome.events["no cells"]
    assert (outcome.events["state fails"], outcome.events["whole"]) == (1, 2)


def test_short_prompts_without_end_do_not_stop_a_long_one() -> None:
    short = [replace(ONE, step=step, own=6, seed=step, family=1, max_tokens=1) for step in range(100)]
    long = replace(ONE, step=1, own=60, seed=1000)
    run(short[0], long, *short[1:], world=replace(WORLD, slots=3, n_batch=4))


def test_what_is_found_is_shrunk_to_what_shows_it() -> None:
    """By an engine that is asked for too much: a prompt that is longer than its whole cache."""
    others = [replace(ONE, step=step, seed=step, family=step % 3) for step in range(0, 60, 4)]
    too_long = replace(ONE, step=30, own=3 * WORLD.n_ctx, seed=1000)
    arrivals = sorted([*others, too_long], key=lambda arrival: arrival.step)
    broken = Plan(WORLD, tuple(arrivals), ((3, Fault("aborted")), (5, Fault("slow"))), steps=100)
    assert failure(replace(broken, arrivals=tuple(others))) is None
    found, small = failure(broken), shrunk(broken)
    assert found is not None
    assert found[0] == (failure(small) or ("",))[0]
    assert [arrival.seed for arrival in small.arrivals] == [1000]
    assert small.faults == ()
