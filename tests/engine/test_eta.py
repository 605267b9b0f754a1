"""What a request is told while it waits: its position, a time that comes true, how much of its prompt is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.kv_cache import sequence_count
from glm_edge.engine.loop import EngineLoop
from glm_edge.engine.prefix_cache.store import Store
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.scheduler import Scheduler
from glm_edge.engine.sequence import GenerationJob, Sequence
from glm_edge.engine.text.tokenizer import Prompt
from glm_edge.errors import OverloadedError
from glm_edge.generation import Generation, Progress
from glm_edge.types import Chunk, EngineConfig, Message, Request, SamplingParams
from support.server.live_server import eventually
from support.simulation.fake_llama import Clock, FakeBatch, FakeContext, FakeModel, Fault


@pytest.fixture(scope="module")
def engine(tiny_f32: Path) -> Iterator[LlamaEngine]:
    config = EngineConfig(tiny_f32, n_threads=1, n_ctx=2048, n_batch=64, slots=1, queue=3, prompt_lookup=False)
    engine = LlamaEngine(config)
    yield engine
    engine.close()


def ask(engine: LlamaEngine, text: str, tokens: int) -> Generation[Chunk]:
    return engine.submit(Request((Message("user", text),), SamplingParams(1.5, 1.0, seed=1), max_tokens=tokens))


def ended(generation: Generation[Chunk]) -> bool:
    return list(generation)[-1].stats is not None


@pytest.mark.case("O1")
def test_a_request_is_told_its_place_and_a_time(engine: LlamaEngine) -> None:
    assert ended(ask(engine, "first", 150))  # from now on the speed is known
    generations = [ask(engine, f"question {n}", 150) for n in range(4)]
    assert eventually(lambda: generations[0].started)
    told = [generation.progress for generation in generations]
    assert [one.position for one in told if one is not None] == [0, 1, 2, 3]
    waits = [one.wait_s for one in told[1:] if one is not None and one.wait_s is not None]
    assert 0 < waits[0] < waits[1] < waits[2]
    with pytest.raises(OverloadedError) as full:
        ask(engine, "one too many", 150)
    assert full.value.retry_after > 0
    assert all(ended(generation) for generation in generations)


@pytest.mark.case("O1")
def test_the_time_that_a_request_is_told_comes_true() -> None:
    engine = SimulatedEngine()
    engine.run(engine.enter(tokens=30))
    running, *waiting = (engine.enter(tokens=30) for _ in range(5))
    while not running.shown:
        engine.loop.turn()
    told = engine.loop.progress(waiting[-1]).wait_s
    with pytest.raises(OverloadedError) as full:
        engine.enter(tokens=30)
    begin = engine.clock()
    engine.run(running)
    assert full.value.retry_after == pytest.approx(engine.clock() - begin, rel=0.05)
    while not waiting[-1].started:
        engine.loop.turn()
    assert told == pytest.approx(engine.clock() - begin, rel=0.05)


@pytest.mark.case("O1")
def test_a_long_prompt_is_told_how_much_of_it_is_read(engine: LlamaEngine) -> None:
    generation = ask(engine, "word " * 900, 1)
    seen: list[Progress] = []

    def nearly_read() -> bool:
        if (progress := generation.progress) is not None and not progress.position:
            seen.append(progress)
        return bool(seen) and seen[-1].done >= seen[-1].total - 64

    assert eventually(nearly_read)
    assert ended(generation)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert len(set(done)) > 5  # more often than once a batch would be enough
    assert seen[-1].total > 900


def test_cancelled_requests_do_not_count(engine: LlamaEngine) -> None:
    generations = [ask(engine, f"again {n}", 200) for n in range(3)]
    generations[1].cancel()

    def position() -> int:
        progress = generations[2].progress
        return -1 if progress is None else progress.position

    assert eventually(lambda: position() <= 1)
    for generation in generations:
        generation.cancel()
        list(generation)


@pytest.mark.case("O1")
def test_an_answer_that_failed_changes_no_estimate() -> None:
    """Two engines of simulated time; in one, an answer that is long already fails before the others come."""
    waits = []
    for fails in (False, True):
        engine = SimulatedEngine()
        engine.run(engine.enter(tokens=4))
        if fails:
            failing = engine.enter(tokens=60)
            while len(failing.tokens) < 40:
                engine.loop.turn()
            engine.context.fault = Fault("nan everywhere")
            engine.run(failing)
            assert failing.failed
        running, waiting = engine.enter(tokens=60), engine.enter(tokens=60)
        while not running.shown:
            engine.loop.turn()
        waits.append(engine.loop.progress(waiting).wait_s)
    assert waits[0] is not None
    assert waits[1] == pytest.approx(waits[0])


class SimulatedEngine:
    """The loop of an engine with one slot over the simulated llama.cpp; each token of an answer takes 3 s."""

    def __init__(self) -> None:
        self.clock, self._model = Clock(), FakeModel()
        sizes = {"n_ctx": 200, "n_sequences": sequence_count(1), "n_outputs": sequence_count(1) + 1}
        self.context = FakeContext(self._model, self.clock, **sizes, token_s=1.0, during=lambda: False)
        store = Store(None, bytes(32), memory=0)
        scheduler = Scheduler(self.context, FakeBatch(64), 1, store, lookup=False, clock=self.clock)  # type: ignore[arg-type]
        self.loop = EngineLoop(scheduler, slots=1, queue_size=4)

    def enter(self, tokens: int) -> Sequence:
        """A request for so many tokens."""
        params = SamplingParams(0, logit_bias={self._model.eos: -100.0})
        answers: list[Sequence] = []
        job = GenerationJob(Request((), params), Prompt("", [0, 1, 5, 6]), tokens)
        generation: Generation[Chunk] = Generation()
        sampler = Sampler(params)
        answers.append(
            Sequence(job, sampler, self._model, generation, answers, self.loop.leave, self.clock)  # type: ignore[arg-type]
        )
        self.loop.enter(answers)
        return answers[0]

    def run(self, answer: Sequence) -> None:
        while not answer.finished:
            self.loop.turn()
