"""The simulated llama.cpp says what the real one says, of random batches, copies, removals and states."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glm_edge.errors import EngineError
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.types import RuntimeName
from support.simulation.fake_llama import Clock, FakeBatch, FakeContext, FakeModel, RuleBroken

N_CTX, N_BATCH, SEQUENCES = 256, 64, 4


@pytest.fixture
def real(tiny_f32: Path, runtime_name: RuntimeName) -> Iterator[Context]:
    model = Model(tiny_f32, runtime_name=runtime_name)
    context = Context(
        model,
        n_ctx=N_CTX,
        n_batch=N_BATCH,
        n_sequences=SEQUENCES,
        n_outputs=SEQUENCES,
        n_threads=1,
        n_threads_batch=1,
    )
    yield context
    context.close()
    model.close()


def said(decode: Callable[[], str]) -> str:
    try:
        return decode()
    except (EngineError, RuleBroken):
        return "refused"


def decoded(rng: random.Random, real: Context, fake: FakeContext, *, wrong: bool) -> str:
    """What both say of the same batch: some of its sequences go on, one in five at the wrong position where `wrong`."""
    batch, fake_batch = Batch(N_BATCH), FakeBatch(N_BATCH)
    for sequence in rng.sample(range(SEQUENCES), rng.randint(1, 3)):
        start = len(fake.tokens(sequence))
        if start and wrong and rng.random() < 0.2:
            start += rng.choice([-1, 1])
        n = rng.randint(1, 20)
        for position in range(start, start + n):
            for one in (batch, fake_batch):
                one.add(position % 30 + 3, position, sequence, logits=position == start + n - 1)
    told = said(lambda: real.decode(batch))
    assert said(lambda: fake.decode(fake_batch)) == told
    return told


def changed(rng: random.Random, real: Context, fake: FakeContext) -> str:
    """The same copy, removal, or state taken and given back."""
    source, target = rng.sample(range(SEQUENCES), 2)
    n = len(fake.tokens(source))
    start = rng.randint(0, n)
    if rng.random() < 0.4 or start in (0, n):
        for context in (real, fake):
            context.remove(source, start)
        return "removed"
    for context in (real, fake):
        context.remove(target)
        context.copy(source, target, 0, start)
    if rng.random() < 0.5:
        return "copied"
    states = [context.state(source, start, n) for context in (real, fake)]
    fits = [context.restore(target, state, start, n) for context, state in zip((real, fake), states, strict=True)]
    assert fits[0] == fits[1]
    return "restored" if fits[0] else "does not fit"


def test_the_fake_says_what_the_runtime_says(real: Context, runtime_name: RuntimeName) -> None:
    """ik_llama.cpp takes any position; the fake and llama.cpp refuse those that do not go on."""
    wrong = runtime_name == "llama"
    rng = random.Random(3)
    fake = FakeContext(
        FakeModel(),
        Clock(),
        n_ctx=N_CTX,
        n_sequences=SEQUENCES,
        n_outputs=SEQUENCES,
        token_s=0.0,
        during=lambda: False,
    )
    outcomes = Counter[str]()
    for _ in range(600):
        outcomes[decoded(rng, real, fake, wrong=wrong) if rng.random() < 0.6 else changed(rng, real, fake)] += 1
        for sequence in range(SEQUENCES):
            if n := len(fake.tokens(sequence)):
                size = len(real.state(sequence, 0, n))
                assert size == len(real.state(sequence, 0, N_CTX)) > len(real.state(sequence, 0, n - 1))
    every = {"done", "full", "removed", "copied", "restored", "does not fit", *(["refused"] if wrong else [])}
    assert {name for name, times in outcomes.items() if times >= 5} == every, outcomes
