"""The engine in a child process: the same answers, and what its death costs (CASES O7, O8, O9, D6, D10, C4)."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import crashing
import psutil
import pytest
from live_server import PATIENCE, eventually

from glm_edge.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineError,
    GlmEdgeError,
    IntegrityError,
    LoadingError,
    OutOfMemoryError,
    OverloadedError,
    RepeatedCrashError,
    RequestError,
    UnsupportedModelError,
)
from glm_edge.generation import Generation
from glm_edge.types import Chunk, Engine, EngineConfig, Message, Request, SamplingParams
from glm_edge.worker import Worker
from glm_edge.worker.suspects import Suspects

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def ask(text: str, max_tokens: int | None = 20) -> Request:
    return Request((Message("user", text),), SamplingParams(0), max_tokens)


def text(generation: Generation[Chunk]) -> str:
    return "".join(chunk.text for chunk in generation)


def failure(generation: Generation[Chunk]) -> GlmEdgeError:
    with pytest.raises(GlmEdgeError) as caught:
        list(generation)
    return caught.value


@contextmanager
def worker(load: Callable[[], Engine], patience: float = 60.0) -> Iterator[Worker]:
    engine = Worker(load, patience=patience)
    try:
        yield engine
    finally:
        engine.close()
        assert not psutil.pid_exists(engine.pid)


def works_again(engine: Worker) -> bool:
    return eventually(lambda: engine.ready, 60)


@pytest.mark.parametrize(
    "error",
    [
        EngineError("x"),
        RequestError("x", param="p", code="c"),
        ContextLengthError(9, 8, param="prompt"),
        OverloadedError("x", retry_after=2.5),
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


def test_many_chunks_arrive_in_order_and_whole() -> None:
    with worker(crashing.obeys) as engine:
        assert text(engine.submit(ask("many", None))) == "一" * 20_000


def test_what_libraries_print_does_not_disturb() -> None:
    with worker(crashing.says_hello) as engine:
        assert text(engine.submit(ask("hi"))) == "你好！"


@posix
def test_o8_a_killed_child_costs_its_answers_and_no_more(tiny_f32: Path) -> None:
    with worker(crashing.tiny(tiny_f32)) as engine:
        before = text(engine.submit(ask("hello")))
        running = [engine.submit(ask("hello", None)) for _ in range(4)]  # four at once are one death
        for generation in running:
            assert generation.get(PATIENCE) is not None
        killed = engine.pid
        os.kill(killed, signal.SIGKILL)
        for generation in running:
            error = failure(generation)
            assert type(error) is EngineError
            assert "SIGKILL: probably by the system, for lack of memory" in str(error)
        with pytest.raises(LoadingError):
            engine.submit(ask("hello"))
        assert works_again(engine)
        assert engine.pid != killed
        assert text(engine.submit(ask("hello"))) == before


@posix
def test_o8_a_child_that_aborts_in_prefill_is_replaced(tiny_f32: Path) -> None:
    with worker(crashing.tiny(tiny_f32)) as engine:
        generation = engine.submit(ask("长" * 1500, None))
        os.kill(engine.pid, signal.SIGABRT)
        assert "SIGABRT" in str(failure(generation))
        assert works_again(engine)
        assert text(engine.submit(ask("hello")))


@posix
def test_o8_a_child_that_dies_idle_is_replaced() -> None:
    with worker(crashing.obeys) as engine:
        dead = engine.pid
        os.kill(dead, signal.SIGKILL)
        assert eventually(lambda: engine.pid != dead)
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


@posix
def test_o7_a_stopped_child_is_noticed_and_replaced() -> None:
    with worker(crashing.obeys, patience=2.0) as engine:
        generation = engine.submit(ask("hang"))
        assert generation.get(PATIENCE) is not None
        os.kill(engine.pid, signal.SIGSTOP)
        assert "for 2 s" in str(failure(generation))
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


def test_o7_an_engine_without_progress_is_noticed_and_replaced() -> None:
    with worker(crashing.obeys, patience=2.0) as engine:
        assert "it made no progress for 2 s" in str(failure(engine.submit(ask("hang"))))
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"


@posix
def test_o9_a_prompt_that_kills_three_times_is_refused_and_others_are_not() -> None:
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


def test_o9_suspicion_ends_with_an_answer_or_with_time() -> None:
    now = [0.0]
    suspects = Suspects(lambda: now[0])
    for _ in range(3):
        suspects.check(b"x")
        suspects.accuse(b"x")
    with pytest.raises(RepeatedCrashError):
        suspects.check(b"x")
    now[0] = 601.0
    suspects.check(b"x")
    for _ in range(2):
        suspects.accuse(b"x")
    suspects.clear(b"x")
    suspects.accuse(b"x")
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


@pytest.mark.parametrize(
    ("load", "error", "message"),
    [
        (crashing.spoilt, IntegrityError, "not the file it was"),
        (crashing.bug, EngineError, "KeyError"),
        (crashing.needs_llama_cpp, UnsupportedModelError, "llama-cpp-python is not installed"),
        pytest.param(partial(crashing.dies, "SIGILL"), UnsupportedModelError, "newer processor", marks=posix),
        pytest.param(partial(crashing.dies, "SIGKILL"), OutOfMemoryError, "lack of memory", marks=posix),
        pytest.param(partial(crashing.dies, "SIGSEGV"), EngineError, "SIGSEGV", marks=posix),
    ],
    ids=["spoilt", "bug", "c4-missing", "c4-SIGILL", "SIGKILL", "SIGSEGV"],
)
def test_a_first_load_that_fails_says_why(load: Callable[[], Engine], error: type[GlmEdgeError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Worker(load)
    assert type(caught.value) is error


@posix
def test_d10_a_model_cut_short_costs_the_answer_and_the_parent_lives(tiny_f32: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    config = EngineConfig(model, n_threads=1, n_ctx=2048, kv_type="f32", load_mode="mmap")
    with worker(partial(crashing.real, config)) as engine:
        os.truncate(model, 4096)
        assert "SIGBUS" in str(failure(engine.submit(ask("hello"))))
        with pytest.raises(LoadingError):
            engine.submit(ask("hello"))
        shutil.copyfile(tiny_f32, model)
        assert works_again(engine)
        assert text(engine.submit(ask("hello")))


@posix
def test_d10_a_model_replaced_by_rename_goes_on_answering(tiny_f32: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    config = EngineConfig(model, n_threads=1, n_ctx=2048, kv_type="f32", load_mode="mmap")
    with worker(partial(crashing.real, config)) as engine:
        before = text(engine.submit(ask("hello")))
        (tmp_path / "new").write_bytes(b"another file")
        (tmp_path / "new").replace(model)
        assert text(engine.submit(ask("hello"))) == before


PARENT = """
import crashing
from glm_edge.worker import Worker
import sys, threading
engine = Worker(crashing.{load})
print(engine.pid, flush=True)
threading.Event().wait()
"""


@posix
@pytest.mark.parametrize(
    "stopped",
    [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG"))],
    ids=["child-runs", "child-hangs"],
)
def test_d6_the_child_does_not_outlive_a_killed_parent(stopped: bool) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}" + PARENT.format(load="obeys")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if stopped:
            child.suspend()
        parent.kill()
    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@posix
def test_ctrl_c_and_a_service_managers_sigterm_are_the_parents_business() -> None:
    with worker(crashing.obeys) as engine:
        pid = engine.pid
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert text(engine.submit(ask("many", None))) == "一" * 20_000
        assert engine.pid == pid


def test_d7_a_parent_that_goes_while_it_loads_leaves_nothing_behind() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}" + PARENT.format(load="never")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert eventually(lambda: bool(psutil.Process(parent.pid).children()))
        child = psutil.Process(parent.pid).children()[0]
        parent.terminate()
        assert parent.wait(PATIENCE) != 0
    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
