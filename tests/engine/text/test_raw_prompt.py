"""Prompts without rounds, the ids of a text, and ChatGLM's count of prompt and answer together, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.text.prompt import prompt_text
from glm_edge.errors import ContextLengthError, EngineClosedError, RequestError
from glm_edge.types import Chunk, EngineConfig, Message, Request, SamplingParams

GREEDY = SamplingParams(temperature=0)
QUESTION = "你好，philosophy 是什么？"


@pytest.fixture(scope="module")
def engine(tiny_q4_0: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_q4_0, n_ctx=256, n_threads=1))
    yield engine
    engine.close()


def answer(engine: LlamaEngine, request: Request) -> tuple[str, Chunk]:
    chunks = list(engine.submit(request))
    return "".join(chunk.text for chunk in chunks), chunks[-1]


def test_a_raw_prompt_in_the_form_of_a_round_is_answered_as_the_conversation_is(engine: LlamaEngine) -> None:
    conversation = answer(engine, Request((Message("user", QUESTION),), GREEDY, max_tokens=12))
    raw = answer(engine, Request((), GREEDY, max_tokens=12, prompts=(prompt_text((), QUESTION),)))
    assert raw[0] == conversation[0]
    assert raw[1].stats is not None
    assert conversation[1].stats is not None
    assert raw[1].stats.prompt_tokens == conversation[1].stats.prompt_tokens


def test_a_raw_prompt_has_the_control_ids_in_front_and_nothing_else(engine: LlamaEngine) -> None:
    text = "人工智能 [gMASK] sop"
    _, last = answer(engine, Request((), GREEDY, max_tokens=1, prompts=(text,)))
    assert last.stats is not None
    assert last.stats.prompt_tokens == 2 + len(engine.tokenize(text))
    assert not set(engine.tokenize(text)) & {64789, 64790, 64791, 64792, 64793}


def test_an_empty_raw_prompt_is_answered(engine: LlamaEngine) -> None:
    assert answer(engine, Request((), GREEDY, max_tokens=2, prompts=("",)))[1].finish_reason in ("stop", "length")


@pytest.mark.case("H21")
def test_a_raw_prompt_longer_than_the_context_is_refused_by_its_name(engine: LlamaEngine) -> None:
    with pytest.raises(ContextLengthError) as error:
        engine.submit(Request((), GREEDY, prompts=("字" * 500,)))
    assert error.value.param == "prompt"
    assert "the prompt takes" in str(error.value)


def test_max_length_counts_prompt_and_answer_together(engine: LlamaEngine) -> None:
    _, free = answer(engine, Request((Message("user", QUESTION),), GREEDY, max_tokens=12))
    assert free.stats is not None
    prompt = free.stats.prompt_tokens
    _, last = answer(engine, Request((Message("user", QUESTION),), GREEDY, max_length=prompt + 2))
    assert last.stats is not None
    assert last.stats.completion_tokens <= 2
    with pytest.raises(RequestError, match=f"take {prompt}") as error:
        engine.submit(Request((Message("user", QUESTION),), GREEDY, max_length=prompt))
    assert (error.value.param, error.value.code) == ("max_length", "context_length_exceeded")


def test_more_answers_than_there_are_places_is_no_matter_of_waiting(engine: LlamaEngine) -> None:
    with pytest.raises(RequestError, match="1000 answers") as error:
        engine.submit(Request((Message("user", QUESTION),), GREEDY, n=1000))
    assert error.value.param == "n"


def test_a_closed_engine_tokenizes_nothing(tiny_q4_0: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_q4_0, n_ctx=64, n_threads=1))
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.tokenize("x")
