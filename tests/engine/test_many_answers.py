"""Several answers to one request, and conversations longer than the context."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.sequence import GenerationJob
from glm_edge.engine.sequence import Sequence as Answer
from glm_edge.engine.text.tokenizer import Prompt
from glm_edge.engine.text.trim import trimmed
from glm_edge.errors import ContextLengthError, EngineError, GlmEdgeError
from glm_edge.generation import Generation
from glm_edge.types import Chunk, EngineConfig, Message, Request, SamplingParams
from support.simulation.fake_llama import FakeModel


@pytest.fixture(scope="module")
def engine(tiny_f32: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", slots=2, queue=20))
    yield engine
    engine.close()


def texts(chunks: Sequence[Chunk], n: int) -> list[str]:
    return ["".join(c.text for c in chunks if c.index == i) for i in range(n)]


def test_n_answers_differ_end_once_each_and_share_the_prompt(engine: LlamaEngine) -> None:
    question = (Message("user", "say something about " + "words " * 60),)
    chunks = list(engine.submit(Request(question, SamplingParams(1.0, 1.0, seed=4), max_tokens=12, n=3)))
    answers = texts(chunks, 3)
    assert len(set(answers)) == 3
    ends = {c.index: c.stats for c in chunks if c.finish_reason is not None}
    assert sorted(ends) == [0, 1, 2]
    cached = sorted(stats.cached_tokens for stats in ends.values() if stats is not None)
    prompt = ends[0].prompt_tokens if ends[0] else 0
    # one computes the prompt, the others copy it and compute its last token only
    assert cached[0] < 60
    assert cached[1:] == [prompt - 1] * 2


def test_first_of_n_seeded_answers_is_the_only_one_of_one(engine: LlamaEngine) -> None:
    question, sampling = (Message("user", "hi"),), SamplingParams(1.0, 1.0, seed=4)
    one = list(engine.submit(Request(question, sampling, max_tokens=12)))
    three = list(engine.submit(Request(question, sampling, max_tokens=12, n=3)))
    assert texts(three, 1) == texts(one, 1)


def conversation(n: int) -> tuple[Message, ...]:
    """n rounds and a question; a message of k characters counts as k tokens below."""
    rounds = [m for i in range(n) for m in (Message("user", f"{i:02}" * 5), Message("assistant", "a" * 10))]
    return (Message("system", "s"), *rounds, Message("user", "end"))


def size(messages: Sequence[Message]) -> int:
    return sum(len(m.content) for m in messages)


def test_a_conversation_that_fits_is_left_alone() -> None:
    assert trimmed(conversation(4), 100, 10, size) == (conversation(4), 0)


def test_oldest_whole_rounds_go_half_a_context_at_a_time() -> None:
    kept, dropped = trimmed(conversation(5), 100, 10, size)
    assert dropped == 3  # 60 tokens, the first whole rounds that reach half of 100
    assert kept == (Message("system", "s"), *conversation(5)[7:])


def test_cut_stays_where_it_is_while_the_conversation_grows() -> None:
    cuts = [trimmed(conversation(n), 100, 10, size)[1] for n in range(15)]
    assert cuts == sorted(cuts)
    assert set(cuts) == {0, 3, 6, 9, 12}


def test_last_question_and_system_always_stay() -> None:
    messages = (*conversation(3)[:-1], Message("user", "x" * 200))
    kept, dropped = trimmed(messages, 100, 10, size)
    assert kept == (Message("system", "s"), messages[-1])
    assert dropped == 3


def test_trimming_is_asked_for_and_said(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_ctx=256, n_threads=1))
    talk = [m for i in range(8) for m in (Message("user", f"question {i} " * 6), Message("assistant", "answer " * 6))]
    messages = (*talk, Message("user", "and now?"))
    with pytest.raises(ContextLengthError):
        engine.submit(Request(messages))
    stats = list(engine.submit(Request(messages, max_tokens=8, trim=True)))[-1].stats
    engine.close()
    assert stats is not None
    assert stats.trimmed_rounds > 0
    assert stats.prompt_tokens <= 256 - 8


@pytest.mark.case("N12")
def test_an_answer_that_fails_is_the_end_of_all_answers_to_its_request() -> None:
    model, generation = FakeModel(), Generation[Chunk]()
    given: list[Chunk | GlmEdgeError | None] = []
    generation.forward(given.append)
    answers: list[Answer] = []
    for index in range(3):
        job = GenerationJob(Request((), n=3), Prompt("", [0, 1]), 9, index=index)
        answers.append(Answer(job, Sampler(SamplingParams(0)), model, generation, answers, lambda answer: None))
    answers[0].accept(5)
    error = EngineError("its logits")
    answers[1].fail(error)
    assert answers[0].cancelled
    answers[0].accept(6)
    answers[0].finish("cancelled")
    answers[2].fail(error)
    assert [item.text if isinstance(item, Chunk) else item for item in given] == ["B", error]
