"""Answers cancelled anywhere, on a real model in a child: they stop, cost nobody else anything and leave nothing behind
that a later answer could show. How soon: `tests/api/http/test_http_cancel_real.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from glm_edge.generation import Generation
from glm_edge.types import Chunk, Engine, EngineConfig, JsonFormat, Message, Request, SamplingParams
from glm_edge.worker import Worker
from glm_edge.worker.messages import Call, Cancel, Item, Reply
from glm_edge.worker.process import Process
from support.engines import crashing_engines as crashing
from support.engines.engine_requests import ask, text, worker
from support.server.live_server import PATIENCE, eventually

WORDS = "word " * 900  # a prompt of several batches
ROUND = (Message("user", "question"), Message("assistant", "an answer " * 30), Message("user", "and now"))
LATER = [  # what is asked afterwards: alike what was cancelled, or not
    ask("after"),
    ask(WORDS + "after", 5),
    ask("go on", 30),
    Request(ROUND, SamplingParams(0), 10),
    Request(ROUND, SamplingParams(1.0, seed=3, logprobs=True), 10),
]


@pytest.fixture(scope="module")
def config(tiny_f32: Path) -> EngineConfig:
    # slices of 64 tokens, so that a prompt can be cancelled between them
    return EngineConfig(tiny_f32, n_threads=1, n_ctx=2048, n_batch=64, kv_type="f32", slots=2, prompt_lookup=False)


@pytest.fixture(scope="module")
def fresh(config: EngineConfig) -> list[str]:
    """What an engine that never saw anything else says to each of LATER."""
    texts = []
    for request in LATER:
        engine = crashing.real(config)
        texts.append(text(engine.submit(request)))
        engine.close()
    return texts


@pytest.fixture(scope="module")
def engine(config: EngineConfig) -> Iterator[Worker]:
    engine = Worker(partial(crashing.real, config))
    yield engine
    engine.close()


def cancel(generation: Generation[Chunk], *, ended: bool = False) -> None:
    """It ends, and not after all that it could have said; with `ended` it may have come to its own end."""
    generation.cancel()
    chunks = list(generation)
    assert ended or chunks[-1].finish_reason == "cancelled"


def in_decode(engine: Engine, after: int) -> None:
    generation = engine.submit(Request((Message("user", "go on"),), SamplingParams(1.0, seed=1), None))
    for _ in range(after):
        assert generation.get(PATIENCE) is not None
    cancel(generation)


def is_read(generation: Generation[Chunk], tokens: int) -> bool:
    progress = generation.progress
    return progress is not None and progress.done >= tokens


def in_prefill(engine: Engine, after: int) -> None:
    for attempt in range(20):
        generation = engine.submit(ask(f"{attempt} {WORDS * 2}", None))
        if eventually(partial(is_read, generation, after), 1):
            return cancel(generation)
        generation.cancel()  # its prompt was read to the end between two reports of how far it is
        list(generation)
        time.sleep(0.07 * attempt)  # another place between two reports, which are a second apart when nothing waits
    pytest.fail("no report came in time")


def in_the_queue(engine: Engine) -> None:
    running = [engine.submit(ask(f"{i} go on", None)) for i in range(2)]
    waiting = [engine.submit(ask(WORDS, None)) for _ in range(2)]
    assert running[1].get(PATIENCE) is not None
    assert not waiting[1].started
    for generation in (*waiting, *running):
        cancel(generation)


def one_of_two_with_one_prompt(engine: Engine) -> None:
    first, second = (engine.submit(ask(WORDS + "after", 5)) for _ in range(2))
    cancel(first, ended=True)
    assert list(second)[-1].finish_reason == "length"


def several_answers_to_one_prompt(engine: Engine) -> None:
    generation = engine.submit(Request(ROUND, SamplingParams(1.0, seed=2), None, n=2))
    assert generation.get(PATIENCE) is not None
    cancel(generation, ended=True)


def a_json_answer(engine: Engine) -> None:
    params = SamplingParams(1.0, seed=2, response_format=JsonFormat())
    generation = engine.submit(Request(ROUND, params, None))
    assert generation.get(PATIENCE) is not None
    cancel(generation, ended=True)


def at_once(engine: Engine) -> None:
    for request in LATER:
        cancel(engine.submit(replace(request, max_tokens=None)), ended=True)


K1, K2, K3 = pytest.mark.case("K1"), pytest.mark.case("K2"), pytest.mark.case("K3")
CANCELS = [
    pytest.param(at_once, id="at-once", marks=K2),
    pytest.param(partial(in_prefill, after=0), id="first-slice", marks=K2),
    pytest.param(partial(in_prefill, after=500), id="middle-of-the-prompt", marks=K2),
    pytest.param(partial(in_decode, after=1), id="first-token", marks=K3),
    pytest.param(partial(in_decode, after=25), id="later-token", marks=K3),
    pytest.param(in_the_queue, id="queue", marks=K1),
    pytest.param(one_of_two_with_one_prompt, id="one-of-two"),
    pytest.param(several_answers_to_one_prompt, id="n"),
    pytest.param(a_json_answer, id="json"),
]


@pytest.mark.case("K6")
@pytest.mark.parametrize("how", CANCELS)
def test_after_a_cancel_every_answer_is_that_of_a_fresh_engine(engine: Worker, fresh: list[str], how: object) -> None:
    pid = engine.pid
    how(engine)  # type: ignore[operator]
    assert [text(engine.submit(request)) for request in LATER] == fresh
    assert engine.pid == pid


@pytest.mark.case("K6")
def test_what_runs_beside_a_cancelled_answer_is_not_changed(engine: Worker, fresh: list[str]) -> None:
    running = engine.submit(LATER[2])
    for after in (1, 3):
        in_decode(engine, after)
    assert text(running) == fresh[2]


@pytest.mark.case("K8")
def test_an_answer_may_be_cancelled_after_any_token(engine: Worker, fresh: list[str]) -> None:
    for after in range(1, 12):
        in_decode(engine, after)
    both = [engine.submit(LATER[i]) for i in (0, 2)]  # both slots are free
    assert [text(generation) for generation in both] == [fresh[0], fresh[2]]


@pytest.mark.case("N1")
def test_a_text_that_is_not_wanted_any_more_is_given_up_in_the_child(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def check() -> None:
        if told.exists():
            raise ConnectionAbortedError

    with worker(partial(crashing.tokenizes, told)) as engine:
        with pytest.raises(ConnectionAbortedError):
            engine.tokenize("x", check)
        assert eventually(lambda: told.read_text("utf-8") == "ended")


@pytest.mark.case("N1")
def test_a_long_text_is_no_reason_to_take_an_engine_for_hung(tmp_path: Path) -> None:
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 5:
            raise ConnectionAbortedError

    with worker(partial(crashing.tokenizes, tmp_path / "told"), patience=2.5) as engine:
        pid = engine.pid
        with pytest.raises(ConnectionAbortedError):
            engine.tokenize("x", check)
        assert engine.ready
        assert engine.pid == pid


@pytest.mark.case("K2")
def test_a_cancel_that_comes_while_the_engine_takes_the_request_ends_its_answer(tmp_path: Path) -> None:
    told = tmp_path / "told"
    child = Process(PATIENCE, lambda: True)  # killed where nothing comes, which ends its messages
    replies = (message for message in child if isinstance(message, Reply | Item))
    try:
        child.send(Call(0, "load", partial(crashing.slow_to_submit, told)))
        assert next(replies).id == 0
        child.send(Call(1, "submit", ask("x")))
        assert eventually(told.exists)
        child.send(Cancel(1))
        child.send(Call(2, "tokenize", "x"))
        assert next(replies).id == 2  # the child reads in order: it knows of the cancel
        told.unlink()
        taken, last, end = (next(replies) for _ in range(3))
        assert (taken.id, last.item.finish_reason, end.item) == (1, "cancelled", None)
    finally:
        child.kill()
        child.end()
