"""Prompts as token ids, several of them, and the log probabilities of a prompt's own tokens, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import RequestError
from glm_edge.types import Chunk, EngineConfig, Message, Request, SamplingParams, TokenLogprob

GREEDY = SamplingParams(temperature=0)
NOISE = 0.1  # in log probabilities, of batches split in another way; neighbouring tokens differ by 1.3 (median)
SCORED = SamplingParams(temperature=0, logprobs=True, top_logprobs=1)
LONG = "人工智能是什么？philosophy 与 geopolitics，2023 年。" * 4  # more tokens than one batch scores


@pytest.fixture(scope="module")
def engine(tiny_q4_0: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(tiny_q4_0, n_ctx=512, n_threads=1, slots=2))
    yield engine
    engine.close()


def answers(engine: LlamaEngine, request: Request) -> list[list[Chunk]]:
    found: list[list[Chunk]] = [[] for _ in range(request.answers)]
    for chunk in engine.submit(request):
        found[chunk.index].append(chunk)
    return found


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def scores(chunks: list[Chunk]) -> list[TokenLogprob]:
    return [one for chunk in chunks for one in chunk.logprobs]


def test_ids_are_continued_as_their_text_is(engine: LlamaEngine) -> None:
    (by_text,) = answers(engine, Request((), GREEDY, 8, prompts=(LONG,)))
    (by_ids,) = answers(engine, Request((), GREEDY, 8, prompts=(tuple(engine.tokenize(LONG)),)))
    assert text(by_ids) == text(by_text)
    with pytest.raises(RequestError, match="token ids are 0 to 65023, not 65024") as error:
        engine.submit(Request((), GREEDY, 8, prompts=((1, 65024),)))
    assert error.value.param == "prompt"


def test_several_prompts_are_answered_as_each_alone_is(engine: LlamaEngine) -> None:
    prompts = (LONG, "你好", "philosophy")
    alone = [text(answers(engine, Request((), GREEDY, 8, prompts=(one,)))[0]) for one in prompts]
    together = answers(engine, Request((), GREEDY, 8, prompts=prompts, n=2))
    assert [text(one) for one in together] == [one for one in alone for _ in range(2)]


def test_a_prompts_tokens_are_scored_as_if_they_had_been_written(engine: LlamaEngine) -> None:
    (written,) = answers(engine, Request((), SCORED, 40, prompts=("你好",)))
    prompt = engine.tokenize("你好")
    pieces = {engine.model.piece(token): token for token in range(engine.model.n_vocab)}
    ids = (*prompt, *(pieces[one.bytes] for one in scores(written)))
    for _ in range(2):  # also where the cache has it all
        (echoed,) = answers(engine, Request((), SCORED, 0, prompts=(ids,), echo=True))
        assert [one.bytes for one in scores(echoed)] == [engine.model.piece(token) for token in ids]
        for again, once in zip(scores(echoed)[len(prompt) :], scores(written), strict=True):
            assert again.logprob == pytest.approx(once.logprob, abs=NOISE)
            assert again.top[0].logprob >= again.logprob
        assert (echoed[-1].finish_reason, echoed[-1].stats and echoed[-1].stats.completion_tokens) == ("length", 0)


def test_an_echo_is_the_prompt_itself_with_the_answer_behind(engine: LlamaEngine) -> None:
    (plain,) = answers(engine, Request((), GREEDY, 5, prompts=(LONG,)))
    for sampling in (GREEDY, SCORED):
        (echoed,) = answers(engine, Request((), sampling, 5, prompts=(LONG,), echo=True))
        assert text(echoed) == LONG + text(plain)
    assert len(scores(echoed)) == len(engine.tokenize(LONG)) + 5


def test_prompts_to_score_may_not_exceed_the_context_together(engine: LlamaEngine) -> None:
    many = (tuple(engine.tokenize(LONG)),) * 6
    with pytest.raises(RequestError, match="all prompts together may take 512 tokens") as error:
        engine.submit(Request((), SCORED, 0, prompts=many, echo=True))
    assert (error.value.param, error.value.code) == ("prompt", "context_length_exceeded")


def test_scoring_goes_on_where_an_answer_was_preempted(engine: LlamaEngine) -> None:
    ids = tuple(engine.tokenize(LONG))
    (alone,) = answers(engine, Request((), SCORED, 0, prompts=(ids,), echo=True))
    long = engine.submit(Request((Message("user", "x"),), SamplingParams(0, logit_bias={2: -100.0}), 450))
    both = [answers(engine, Request((), SCORED, 0, prompts=(ids,), echo=True))[0] for _ in range(3)]
    long.cancel()
    for one in both:
        assert [s.logprob for s in scores(one)] == pytest.approx([s.logprob for s in scores(alone)], abs=NOISE)


def test_a_last_message_of_the_assistant_is_continued(engine: LlamaEngine) -> None:
    asked = (Message("user", "你好"),)
    (rest,) = answers(engine, Request((*asked, Message("assistant", "好的，")), GREEDY, 8))
    (raw,) = answers(engine, Request((), GREEDY, 8, prompts=("[Round 1]\n\n问：你好\n\n答：好的，",)))
    assert text(rest) == text(raw)
    assert rest[-1].stats is not None
    assert raw[-1].stats is not None
    assert rest[-1].stats.prompt_tokens == raw[-1].stats.prompt_tokens
