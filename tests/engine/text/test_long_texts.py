"""Long texts: refused before they are tokenized to the end, and in nobody's way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import ContextLengthError, EngineClosedError
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.engine_requests import ask, text
from support.server.live_server import PATIENCE, eventually

N_CTX = 256
CHARACTERS = {"newlines": "\n", "tabs": "\t", "emoji": "😀", "rare": "\U00020000", "letters": "a"}


@pytest.fixture(scope="module")
def config(tiny_q4_0: Path) -> EngineConfig:
    return EngineConfig(tiny_q4_0, n_ctx=N_CTX, n_threads=1)


@pytest.fixture(scope="module")
def engine(config: EngineConfig) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(config)
    yield engine
    engine.close()


@pytest.mark.case("N1")
@pytest.mark.parametrize("name", CHARACTERS)
def test_a_prompt_of_many_contexts_is_refused_with_what_is_known(engine: LlamaEngine, name: str) -> None:
    long = CHARACTERS[name] * 300_000
    for request in (Request((), prompts=(long,)), Request((Message("user", long),)), ask(long)):
        began = time.thread_time()
        with pytest.raises(ContextLengthError, match=r"takes? at least \d+, leaving") as caught:
            engine.submit(request)
        assert time.thread_time() - began < 5
        assert 4 * N_CTX < caught.value.prompt_tokens <= 300_000 * 4


def test_a_prompt_a_little_too_long_is_counted(engine: LlamaEngine) -> None:
    with pytest.raises(ContextLengthError, match="the prompt takes 903, leaving"):
        engine.submit(Request((), prompts=("字" * 900,)))


def test_rounds_that_are_too_long_by_far_are_trimmed(engine: LlamaEngine) -> None:
    past = (Message("user", "\n" * 300_000), Message("assistant", "a" * 300_000))
    chunks = list(engine.submit(Request((*past, Message("user", "hello")), SamplingParams(0), 2, trim=True)))
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.trimmed_rounds == 1
    with pytest.raises(ContextLengthError, match="at least"):
        engine.submit(Request((Message("system", "\n" * 300_000), *past, Message("user", "hello")), trim=True))


@pytest.mark.case("N1")
def test_others_are_served_while_a_text_is_tokenized(engine: LlamaEngine) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    with ThreadPoolExecutor() as pool:
        long = pool.submit(engine.tokenize, "\n" * 50_000, check)
        assert begun.wait(PATIENCE)
        assert text(engine.submit(ask("hello", 2))) is not None
        assert len(engine.tokenize("\n" * 20_000)) == 20_001
        assert not long.done()
        go_on.set()
        assert len(long.result(PATIENCE)) == 50_001


@pytest.mark.case("N1")
def test_a_text_that_is_not_wanted_any_more_is_given_up(engine: LlamaEngine) -> None:
    checks: list[int] = []

    def check() -> None:
        checks.append(len(checks))
        if len(checks) == 3:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        engine.tokenize("\n" * 100_000, check)
    assert len(checks) == 3


@pytest.mark.case("N1")
def test_a_text_that_cannot_be_cut_waits_for_another_such_and_can_be_given_up_meanwhile(engine: LlamaEngine) -> None:
    uncut = "ab" * 400_000  # one call of half a second at least, which nothing stops

    def gives_up() -> bool:
        """Whether it had to wait."""
        checks = itertools.count()

        def check() -> None:
            if next(checks) == 2:  # the first before the slice, the others after it, or each 0.1 s while it waits
                raise ConnectionAbortedError

        try:
            return len(engine.tokenize(uncut, check)) < 100_000
        except ConnectionAbortedError:
            return True

    with ThreadPoolExecutor() as pool:
        both = [pool.submit(gives_up) for _ in range(2)]
        assert sorted(one.result(PATIENCE) for one in both) == [False, True]


def test_closing_ends_what_is_being_tokenized(config: EngineConfig) -> None:
    engine = LlamaEngine(config)
    closing = threading.Thread(target=engine.close)

    def check() -> None:
        if not closing.ident:
            closing.start()
        assert eventually(lambda: not engine.ready)

    with pytest.raises(EngineClosedError):
        engine.tokenize("\n" * 100_000, check)
    closing.join(PATIENCE)
    assert not closing.is_alive()
