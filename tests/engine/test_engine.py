"""The engine on a real model: its answers, its limits, cancelling, and many requests at once."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import llama_cpp
import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import (
    ContextLengthError,
    EngineClosedError,
    OutOfMemoryError,
    OverloadedError,
    RequestError,
    UsageError,
)
from glm_edge.types import Chunk, EngineConfig, JsonFormat, Message, Request, RuntimeName, SamplingParams


def ask(text: str, *, temperature: float = 0, seed: int | None = None, max_tokens: int | None = 20) -> Request:
    return Request((Message("user", text),), SamplingParams(temperature, seed=seed), max_tokens)


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def f32(model: Path, runtime: RuntimeName) -> EngineConfig:
    """A cache of f32, where the runtime has one."""
    return EngineConfig(model, runtime=runtime, n_threads=1, kv_type="f32" if runtime == "llama" else "f16")


@pytest.fixture(scope="module")
def engine(tiny_f32: Path, runtime_name: RuntimeName) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(replace(f32(tiny_f32, runtime_name), slots=3, queue=20))
    yield engine
    engine.close()


def test_answer_ends_with_its_reason_and_figures(engine: LlamaEngine) -> None:
    chunks = list(engine.submit(ask("你好")))
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    stats = chunks[-1].stats
    assert stats is not None
    assert stats.completion_tokens == 20
    assert stats.prompt_tokens == 2 + 14 + 1  # control ids, the round's frame, the question
    assert stats.prefill_s > 0
    assert stats.decode_s > 0


def test_greedy_answers_repeat(engine: LlamaEngine) -> None:
    assert text(list(engine.submit(ask("你好")))) == text(list(engine.submit(ask("你好"))))


def test_seeded_answers_repeat_and_seeds_differ(engine: LlamaEngine) -> None:
    answers = [text(list(engine.submit(ask("hi", temperature=1.5, seed=seed)))) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_answers_computed_together_equal_answers_computed_alone(engine: LlamaEngine, runtime_name: RuntimeName) -> None:
    requests = [ask(f"question {i} " * (7 * i + 1), temperature=0.9, seed=i) for i in range(9)]
    alone = [text(list(engine.submit(request))) for request in requests]
    generations = [engine.submit(request) for request in requests]
    together = [text(list(generation)) for generation in generations]
    if runtime_name == "llama":  # with a cache of f16, what one answer rounds to may depend on others
        assert together == alone


def test_next_round_computes_only_what_is_new(engine: LlamaEngine) -> None:
    first = ask("tell me", temperature=1.0, seed=5)
    chunks = list(engine.submit(first))
    done = chunks[-1].stats
    assert done is not None
    again = (*first.messages, Message("assistant", text(chunks)), Message("user", "and then?"))
    last = list(engine.submit(Request(again, SamplingParams(0), 5)))[-1].stats
    assert last is not None
    # all of the first round but the last token, which was drawn and not computed
    assert last.cached_tokens == done.prompt_tokens + done.completion_tokens - 1


def test_same_prompt_again_computes_one_token(engine: LlamaEngine) -> None:
    for _ in range(2):
        stats = list(engine.submit(ask("once more")))[-1].stats
    assert stats is not None
    assert stats.cached_tokens == stats.prompt_tokens - 1


def test_stop_string_ends_the_answer(engine: LlamaEngine) -> None:
    whole = text(list(engine.submit(ask("hello"))))
    stop = whole[5:8]
    request = Request((Message("user", "hello"),), SamplingParams(0), 20, stop=(stop,))
    chunks = list(engine.submit(request))
    assert chunks[-1].finish_reason == "stop"
    assert text(chunks) == whole[: whole.index(stop)].rstrip()


def test_prompt_longer_than_the_context_is_refused_with_both_numbers(engine: LlamaEngine) -> None:
    with pytest.raises(ContextLengthError) as caught:
        engine.submit(ask("word " * 3000))
    assert caught.value.n_ctx == engine.info.n_ctx == 2048
    assert caught.value.prompt_tokens > 3000
    assert "2048" in str(caught.value)
    assert str(caught.value.prompt_tokens) in str(caught.value)


def test_prompt_is_measured_before_its_format_is_compiled(engine: LlamaEngine) -> None:
    refused = SamplingParams(response_format=JsonFormat('{"type": "no such type"}'))
    with pytest.raises(RequestError, match="#/type"):
        engine.submit(Request((Message("user", "hi"),), refused))
    with pytest.raises(ContextLengthError):
        engine.submit(Request((Message("user", "word " * 3000),), refused))


def test_work_between_batches_runs_in_the_engines_thread(engine: LlamaEngine) -> None:
    running = engine.submit(ask("go on", temperature=1, seed=1, max_tokens=None))
    assert engine.between_batches(threading.current_thread).name == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.between_batches(lambda: 1 // 0)
    running.cancel()
    assert list(running)[-1].finish_reason == "cancelled"


def test_answer_ends_where_the_context_does(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=256))
    chunks = list(engine.submit(ask("word " * 150, max_tokens=None)))
    engine.close()
    assert chunks[-1].finish_reason == "length"
    stats = chunks[-1].stats
    assert stats is not None
    assert stats.prompt_tokens + stats.completion_tokens == 256


@pytest.mark.parametrize("n_ctx", [0, 2049], ids=["none", "more than the model's"])
def test_context_outside_the_model_is_refused(tiny_f32: Path, n_ctx: int) -> None:
    with pytest.raises(UsageError, match="64 to 2048"):
        LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=n_ctx))


def test_cancelled_answer_ends_and_leaves_nothing_behind(engine: LlamaEngine) -> None:
    expected = text(list(engine.submit(ask("after"))))
    generation = engine.submit(ask("go on", temperature=1.0, seed=1, max_tokens=None))
    first = generation.get(timeout=10)
    assert first is not None
    generation.cancel()
    rest = list(generation)
    assert rest[-1].finish_reason == "cancelled"
    assert text(list(engine.submit(ask("after")))) == expected


def test_cancelled_prompt_stops_within_its_batch(engine: LlamaEngine) -> None:
    generation = engine.submit(ask("word " * 1900, max_tokens=None))
    generation.cancel()
    chunks = list(generation)
    assert text(chunks) == ""
    assert chunks[-1].finish_reason == "cancelled"


def test_more_requests_than_places_are_refused_at_once(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, slots=1, queue=1))
    running = [engine.submit(ask("a", temperature=1, seed=0, max_tokens=None)) for _ in range(2)]
    with pytest.raises(OverloadedError, match="capacity of 2 answers"):
        engine.submit(ask("b"))
    for generation in running:
        generation.cancel()
        list(generation)
    engine.close()


def test_cache_shared_by_more_than_it_holds_still_gives_every_whole_answer(tiny_f32: Path) -> None:
    requests = [ask(f"{i} " * 40, temperature=1, seed=i, max_tokens=120) for i in range(3)]
    engine = LlamaEngine(replace(f32(tiny_f32, "llama"), n_ctx=256, slots=3))
    alone = [text(list(engine.submit(request))) for request in requests]
    generations = [engine.submit(request) for request in requests]
    together = [text(list(generation)) for generation in generations]
    engine.close()
    assert together == alone


def test_closing_ends_what_runs_and_refuses_what_comes(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, slots=1))
    running, waiting = [engine.submit(ask("a", temperature=1, seed=0, max_tokens=None)) for _ in range(2)]
    assert running.get(timeout=10) is not None
    engine.close()
    for generation in (running, waiting):
        with pytest.raises(EngineClosedError):
            list(generation)
    with pytest.raises(EngineClosedError):
        engine.submit(ask("b"))
    engine.close()


@pytest.mark.parametrize("name", ["constraints", "engine"])
def test_an_engine_whose_thread_cannot_start_frees_what_it_has_loaded(
    tiny_f32: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    def counted(function: str, free: Callable[[object], None], handle: object) -> None:
        freed.append(function)
        free(handle)

    freed: list[str] = []
    made = ["llama_free", "llama_model_free"]
    for function in made:
        monkeypatch.setattr(llama_cpp, function, partial(counted, function, getattr(llama_cpp, function)))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OutOfMemoryError, match=rf"another thread \({name}\).*close other programs"):
        LlamaEngine(EngineConfig(tiny_f32, n_threads=1))
    assert freed == made
