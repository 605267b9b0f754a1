"""The engine in a child process: the same answers, and what its death costs."""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from glm_edge.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineDiedError,
    EngineError,
    GlmEdgeError,
    LoadingError,
    OutOfMemoryError,
    OverloadedError,
    RepeatedCrashError,
    RequestError,
)
from glm_edge.worker import Worker
from glm_edge.worker.crash_quarantine import CrashQuarantine
from support.engines import crashing_engines as crashing
from support.engines.engine_requests import ask, failure, text, worker, works_again
from support.server.live_server import PATIENCE, eventually

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


@pytest.mark.parametrize(
    "error",
    [
        EngineError("x"),
        RequestError("x", param="p", code="c"),
        ContextLengthError(9, 8, param="prompt"),
        OverloadedError("x", retry_after=2.5),
        LoadingError("x", retry_after=2.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_pipe(error: GlmEdgeError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert (str(there), vars(there)) == (str(error), vars(error))


def test_every_answer_is_the_one_of_the_engine_itself(tiny_f32: Path) -> None:
    questions = [ask(f"question {i} " * (3 * i + 1)) for i in range(4)]
    here = crashing.tiny(tiny_f32)()
    expected = [list(here.submit(question)) for question in questions]
    ids = here.tokenize("hello 你好")
    here.close()
    with worker(crashing.tiny(tiny_f32)) as there:
        assert there.info == here.info
        assert there.tokenize("hello 你好") == ids
        generations = [there.submit(question) for question in questions]
        for generation, chunks in zip(generations, expected, strict=True):
            got = list(generation)
            assert [chunk.text for chunk in got] == [chunk.text for chunk in chunks]
            assert got[-1].stats is not None
            assert got[-1].finish_reason == chunks[-1].finish_reason
            assert generation.started
        with pytest.raises(ContextLengthError) as caught:
            there.submit(ask("长" * 2500))
        assert caught.value.n_ctx == 2048


def test_a_cancelled_answer_ends_and_frees_its_slot(tiny_f32: Path) -> None:
    with worker(crashing.tiny(tiny_f32, slots=1)) as engine:
        generation = engine.submit(ask("hello", None))
        assert generation.get(PATIENCE) is not None
        generation.cancel()
        assert list(generation)[-1].finish_reason == "cancelled"
        assert text(engine.submit(ask("hello", 3)))


def test_close_ends_running_answers_and_the_child(tiny_f32: Path) -> None:
    engine = Worker(crashing.tiny(tiny_f32))
    generation = engine.submit(ask("hello", None))
    assert generation.get(PATIENCE) is not None
    engine.close()
    engine.close()
    assert isinstance(failure(generation), EngineClosedError)
    assert not psutil.pid_exists(engine.pid)
    assert not engine.ready
    with pytest.raises(EngineClosedError):
        engine.submit(ask("hello"))


def test_what_the_engine_still_writes_while_it_is_closed_is_written(tmp_path: Path) -> None:
    with worker(partial(crashing.slow_to_close, tmp_path / "kept")):
        pass
    assert (tmp_path / "kept").read_text("utf-8") == "what is to be kept"


def test_an_engine_that_cannot_go_on_says_why_and_is_replaced() -> None:
    with worker(crashing.broken) as engine:
        broken = engine.pid
        assert str(failure(engine.submit(ask("hi")))) == "out of order"
        assert eventually(lambda: engine.pid != broken)
        assert works_again(engine)


def test_many_chunks_arrive_in_order_and_whole() -> None:
    with worker(crashing.obeys) as engine:
        assert text(engine.submit(ask("many", None))) == "一" * 20_000


def test_what_libraries_print_does_not_disturb() -> None:
    with worker(crashing.says_hello) as engine:
        assert text(engine.submit(ask("hi"))) == "你好！"


@pytest.mark.case("O8")
@posix
def test_a_killed_child_costs_its_answers_and_no_more(tiny_f32: Path) -> None:
    with worker(crashing.tiny(tiny_f32)) as engine:
        before = text(engine.submit(ask("hello")))
        running = [engine.submit(ask("hello", None)) for _ in range(4)]  # four at once are one death
        for generation in running:
            assert generation.get(PATIENCE) is not None
        killed = engine.pid
        os.kill(killed, signal.SIGKILL)
        for generation in running:
            error = failure(generation)
            assert type(error) is EngineDiedError
            assert "SIGKILL: probably by the system, for lack of memory" in str(error)
        with pytest.raises(LoadingError):
            engine.submit(ask("hello"))
        assert works_again(engine)
        assert engine.pid != killed
        assert text(engine.submit(ask("hello"))) == before


@pytest.mark.case("O8")
@posix
def test_a_child_that_aborts_in_prefill_is_replaced(tiny_f32: Path) -> None:
    with worker(crashing.tiny(tiny_f32)) as engine:
        generation = engine.submit(ask("长" * 1500, None))
        os.kill(engine.pid, signal.SIGABRT)
        assert "SIGABRT" in str(failure(generation))
        assert works_again(engine)
        assert text(engine.submit(ask("hello")))


@pytest.mark.case("O8")
@posix
def test_a_child_that_dies_idle_is_replaced() -> None:
    with worker(crashing.obeys) as engine:
        dead = engine.pid
        os.kill(dead, signal.SIGKILL)
        assert eventually(lambda: engine.pid != dead)
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


@pytest.mark.case("O7")
@posix
def test_a_stopped_child_is_noticed_and_replaced() -> None:
    with worker(crashing.obeys, patience=2.0) as engine:
        generation = engine.submit(ask("hang"))
        assert generation.get(PATIENCE) is not None
        os.kill(engine.pid, signal.SIGSTOP)
        assert "for 2 s" in str(failure(generation))
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


@pytest.mark.case("O7")
def test_an_engine_without_progress_is_noticed_and_replaced() -> None:
    with worker(crashing.obeys, patience=2.0) as engine:
        assert "it made no progress for 2 s" in str(failure(engine.submit(ask("hang"))))
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


@pytest.mark.case("O9")
@posix
def test_a_prompt_that_kills_three_times_is_refused_and_others_are_not() -> None:
    with worker(crashing.obeys) as engine:
        for _ in range(3):
            assert "SIGABRT" in str(failure(engine.submit(ask("SIGABRT"))))
            assert works_again(engine)
            assert text(engine.submit(ask("hi"))) == "ab"
        survivor = engine.pid
        with pytest.raises(RepeatedCrashError, match="3 times"):
            engine.submit(ask("SIGABRT"))
        assert text(engine.submit(ask("hi"))) == "ab"
        assert engine.pid == survivor


@pytest.mark.case("N3", "N9")
@posix
def test_a_prompt_that_kills_is_refused_to_its_own_scope_alone() -> None:
    """Another key's client neither gets it refused nor learns of it; it has three deaths of its own."""
    one, other = (replace(ask("SIGABRT"), prefix_scope=scope * 32) for scope in (b"1", b"2"))
    with worker(crashing.obeys) as engine:
        for request in (one, one, one, other):
            assert isinstance(failure(engine.submit(request)), EngineDiedError)
            assert works_again(engine)
        with pytest.raises(RepeatedCrashError):
            engine.submit(one)
        assert isinstance(failure(engine.submit(other)), EngineDiedError)
        assert works_again(engine)


@pytest.mark.case("N3")
@posix
def test_prompts_that_ran_together_at_three_deaths_are_both_answered(tiny_f32: Path) -> None:
    """Nobody is refused for deaths that another may have caused; they run one after the other, to know."""
    prompts = [ask("one", None), ask("another", None)]
    with worker(crashing.tiny(tiny_f32)) as engine:
        for _ in range(3):
            running = [engine.submit(prompt) for prompt in prompts]
            for generation in running:
                assert generation.get(PATIENCE) is not None
            os.kill(engine.pid, signal.SIGKILL)
            for generation in running:
                assert isinstance(failure(generation), EngineDiedError)
            assert works_again(engine)
        first, second = [engine.submit(prompt) for prompt in prompts]
        assert first.get(PATIENCE) is not None
        assert not second.started
        first.cancel()
        assert list(first)[-1].finish_reason == "cancelled"
        assert second.get(PATIENCE) is not None
        second.cancel()
        list(second)


@pytest.mark.case("N3")
@posix
def test_a_prompt_that_kills_beside_others_is_found_and_the_bystander_is_not_refused() -> None:
    with worker(crashing.obeys) as engine:
        for _ in range(3):
            bystander = engine.submit(ask("hang"))
            assert bystander.get(PATIENCE) is not None
            assert isinstance(failure(engine.submit(ask("SIGABRT"))), EngineDiedError)
            assert isinstance(failure(bystander), EngineDiedError)
            assert works_again(engine)
        for _ in range(3):
            killer = engine.submit(ask("SIGABRT"))
            with pytest.raises(LoadingError):  # it waits for the killer's end, or comes after it
                text(engine.submit(ask("hang")))
            assert isinstance(failure(killer), EngineDiedError)
            assert works_again(engine)
            assert text(engine.submit(ask("hi"))) == "ab"
        with pytest.raises(RepeatedCrashError):
            engine.submit(ask("SIGABRT"))
        bystander = engine.submit(ask("hang"))
        assert bystander.get(PATIENCE) is not None
        waits = engine.submit(ask("hi"))
        waits.cancel()
        assert list(waits) == []  # it was never begun
        bystander.cancel()


@pytest.mark.case("N3")
def test_a_prompt_in_quarantine_gets_a_try_now_and_then_and_an_answer_ends_it() -> None:
    now = [0.0]
    suspects = CrashQuarantine(lambda: now[0])
    for _ in range(3):
        suspects.record_crash([b"x"])
    now[0] = 119.0
    with pytest.raises(RepeatedCrashError):
        suspects.check(b"x")
    now[0] = 121.0
    suspects.check(b"x")
    assert suspects.is_suspect(b"x")
    with pytest.raises(RepeatedCrashError):  # one try at a time
        suspects.check(b"x")
    suspects.clear(b"x")
    suspects.check(b"x")
    assert not suspects.is_suspect(b"x")


@pytest.mark.case("O9")
def test_suspicion_ends_with_an_answer_or_with_time() -> None:
    now = [0.0]
    suspects = CrashQuarantine(lambda: now[0])
    for _ in range(3):
        suspects.check(b"x")
        suspects.record_crash([b"x"])
    with pytest.raises(RepeatedCrashError):
        suspects.check(b"x")
    now[0] = 601.0
    suspects.check(b"x")
    for _ in range(2):
        suspects.record_crash([b"x"])
    suspects.clear(b"x")
    suspects.record_crash([b"x"])
    suspects.check(b"x")


def test_an_error_of_one_answer_ends_only_that() -> None:
    with worker(crashing.obeys) as engine:
        pid = engine.pid
        assert str(failure(engine.submit(ask("fail")))) == "failed"
        overloaded = failure(engine.submit(ask("full")))
        assert isinstance(overloaded, OverloadedError)
        assert overloaded.retry_after == 7.5
        assert text(engine.submit(ask("hi"))) == "ab"
        assert engine.pid == pid


def test_a_call_that_gets_no_thread_in_the_child_ends_alone() -> None:
    with worker(crashing.no_thread_for_a_call) as engine:
        pid = engine.pid
        with pytest.raises(OutOfMemoryError, match=r"another thread \(call\)"):
            engine.tokenize("x")
        assert engine.tokenize("x") == [ord("x")]
        assert text(engine.submit(ask("hi"))) == "你好！"
        assert engine.pid == pid
