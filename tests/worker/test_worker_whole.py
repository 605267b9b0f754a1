"""Everything that the engine offers, through the worker: the same answers, figures and news as without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import RequestError
from glm_edge.types import Chunk, Engine, EngineConfig, JsonFormat, Message, Request, SamplingParams, Stats
from glm_edge.worker import Worker
from support.engines import crashing_engines as crashing
from support.server.live_server import PATIENCE, eventually

SCHEMA = (
    '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}'
)
QUESTION = (Message("user", "question"),)
LONG = tuple(
    Message(role, f"{i} word word word word" * 20)
    for i in range(20)
    for role in ("user", "assistant")  # type: ignore[arg-type]
)[:-1]


@pytest.fixture(scope="module")
def config(tiny_f32: Path) -> EngineConfig:
    # without drafts: how many tokens are in a batch, which rounds otherwise, would be a matter of measured time
    return EngineConfig(tiny_f32, n_threads=1, n_ctx=2048, kv_type="f32", slots=4, prompt_lookup=False)


@pytest.fixture(scope="module")
def here(config: EngineConfig) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(config)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def there(config: EngineConfig) -> Iterator[Worker]:
    engine = Worker(partial(crashing.real, config))
    yield engine
    engine.close()


def answer(engine: Engine, request: Request) -> list[Chunk]:
    """Its chunks; of the figures, those that are no matter of time or of what came before."""
    return [
        replace(
            chunk, stats=chunk.stats and Stats(chunk.stats.prompt_tokens, chunk.stats.completion_tokens, 0, 0, 0, 0)
        )
        for chunk in engine.submit(request)
    ]


@pytest.mark.parametrize(
    "request_",
    [
        Request(QUESTION, SamplingParams(1.0, seed=7), 20),
        Request(QUESTION, SamplingParams(1.0, 1.0, 7, 40, 0.01, 0.5, 0.5, 1.1), 20),
        Request(QUESTION, SamplingParams(0, logit_bias={1000: 100.0}), 5),
        Request(QUESTION, SamplingParams(0, logprobs=True, top_logprobs=3), 10),
        Request(QUESTION, SamplingParams(1.0, seed=7, response_format=JsonFormat(SCHEMA)), 30),
        Request(QUESTION, SamplingParams(1.0, seed=7, response_format=JsonFormat()), 30),
        Request(LONG, SamplingParams(0), 10, trim=True),
        Request((), SamplingParams(0), 10, prompts=("go on with 你好",)),
        Request(QUESTION, SamplingParams(0), None, max_length=40),
        Request((Message("user", "a b c d " * 40),), SamplingParams(0), 60),
    ],
    ids=["seed", "sampling", "bias", "logprobs", "schema", "json", "trim", "prompt", "max_length", "repeats"],
)
def test_an_answer_is_the_same_chunk_for_chunk(here: LlamaEngine, there: Worker, request_: Request) -> None:
    expected = answer(here, request_)
    assert answer(there, request_) == expected
    assert expected[-1].finish_reason is not None


def test_a_stop_string_ends_the_answer(here: LlamaEngine, there: Worker) -> None:
    text = "".join(chunk.text for chunk in here.submit(Request(QUESTION, SamplingParams(0), 20)))
    request = Request(QUESTION, SamplingParams(0), 20, stop=(text[5:8],))
    assert answer(there, request) == answer(here, request)
    assert answer(there, request)[-1].finish_reason == "stop"


def test_n_answers_are_those_of_the_engine(here: LlamaEngine, there: Worker) -> None:
    request = Request(QUESTION, SamplingParams(1.0, seed=7), 20, n=3)
    texts = [["", "", ""], ["", "", ""]]
    for mine, engine in zip(texts, (here, there), strict=True):
        for chunk in engine.submit(request):
            mine[chunk.index] += chunk.text
    assert texts[0] == texts[1]
    assert len(set(texts[1])) == 3


def test_a_request_that_only_the_engine_can_refuse_is_refused_by_its_field(there: Worker) -> None:
    with pytest.raises(RequestError) as caught:
        there.submit(Request(QUESTION, n=1000))
    assert (caught.value.param, caught.value.code) == ("n", "invalid_value")


def test_a_prompt_is_in_memory_the_second_time(there: Worker) -> None:
    request = Request((Message("user", "to be kept " * 50),), SamplingParams(0), 3)
    first, second = (list(there.submit(request))[-1].stats for _ in range(2))
    assert first is not None
    assert second is not None
    assert second.cached_tokens == second.prompt_tokens - 1 > first.cached_tokens


def test_a_prompt_is_on_disk_after_a_restart(config: EngineConfig, tmp_path: Path) -> None:
    load = partial(crashing.real, replace(config, cache_folder=tmp_path))
    request = Request((Message("user", "to be kept " * 100),), SamplingParams(0), 3)
    cached = []
    for _ in range(2):
        engine = Worker(load)
        stats = list(engine.submit(request))[-1].stats
        assert stats is not None
        cached.append(stats.cached_tokens)
        engine.close()
    assert cached == [0, stats.prompt_tokens - 1]


def test_who_waits_is_told_its_position_and_who_is_read_how_far(config: EngineConfig) -> None:
    engine = Worker(partial(crashing.real, replace(config, slots=1)))
    running = engine.submit(Request(QUESTION, SamplingParams(0), None))
    assert running.get(PATIENCE) is not None
    second, third = (engine.submit(Request((Message("user", f"{i} " * 600),), SamplingParams(0), 1)) for i in range(2))
    for position, generation in enumerate((second, third), 1):
        progress = generation.progress
        assert progress is not None
        assert (progress.position, generation.started) == (position, False)
    running.cancel()
    assert eventually(lambda: second.started)
    # between two beats both may have come to their ends
    assert eventually(lambda: third.started or ((p := third.progress) is not None and p.position < 2))
    assert list(third)[-1].finish_reason == "length"
    progress = third.progress
    assert progress is not None
    assert progress.total > 600
    engine.close()
