"""A worker's beginning and end: loads that fail, files that change, parents that go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from glm_edge.errors import (
    EngineError,
    GlmEdgeError,
    IntegrityError,
    LoadingError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from glm_edge.types import Engine, EngineConfig
from glm_edge.worker import Worker
from support.engines import crashing_engines as crashing
from support.engines.engine_requests import ask, failure, text, worker, works_again
from support.server.live_server import PATIENCE, eventually

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


@pytest.mark.case("C4")
@pytest.mark.parametrize(
    ("load", "error", "message"),
    [
        (crashing.spoilt, IntegrityError, "not the file it was"),
        (crashing.bug, EngineError, "KeyError"),
        (crashing.needs_a_library, UnsupportedModelError, "a library is missing"),
        pytest.param(partial(crashing.dies, "SIGILL"), UnsupportedModelError, "newer processor", marks=posix),
        pytest.param(partial(crashing.dies, "SIGKILL"), OutOfMemoryError, "lack of memory", marks=posix),
        pytest.param(partial(crashing.dies, "SIGSEGV"), EngineError, "SIGSEGV", marks=posix),
    ],
    ids=["spoilt", "bug", "missing", "SIGILL", "SIGKILL", "SIGSEGV"],
)
def test_a_first_load_that_fails_says_why(load: Callable[[], Engine], error: type[GlmEdgeError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Worker(load)
    assert type(caught.value) is error


def test_a_bug_on_this_side_is_an_error_and_nobody_waits_for_ever() -> None:
    def nameless() -> Engine:
        """Nothing that the child could import."""
        return crashing.never()

    before = threading.excepthook
    threading.excepthook = lambda _: None  # it is reported there, too
    try:
        with pytest.raises(EngineError, match="supervisor failed"):
            Worker(nameless)
    finally:
        threading.excepthook = before


@pytest.mark.case("D10")
@posix
def test_a_model_cut_short_costs_the_answer_and_the_parent_lives(
    tiny_f32: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    config = EngineConfig(model, n_threads=1, n_ctx=2048, kv_type="f32", load_mode="mmap")
    with worker(partial(crashing.real, config)) as engine:
        os.truncate(model, 4096)
        assert "SIGBUS" in str(failure(engine.submit(ask("hello"))))
        with pytest.raises(LoadingError):
            engine.submit(ask("hello"))
        assert eventually(lambda: "put the model file back" in caplog.text)
        shutil.copyfile(tiny_f32, model)
        assert works_again(engine)
        assert text(engine.submit(ask("hello")))


@pytest.mark.case("D10")
@posix
def test_a_model_replaced_by_rename_goes_on_answering(tiny_f32: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(tiny_f32, model)
    config = EngineConfig(model, n_threads=1, n_ctx=2048, kv_type="f32", load_mode="mmap")
    with worker(partial(crashing.real, config)) as engine:
        before = text(engine.submit(ask("hello")))
        (tmp_path / "new").write_bytes(b"another file")
        (tmp_path / "new").replace(model)
        assert text(engine.submit(ask("hello"))) == before


PARENT = """
from support.engines import crashing_engines as crashing
from glm_edge.worker import Worker
import sys, threading
engine = Worker(crashing.{load})
print(engine.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.case("D6")
@posix
@pytest.mark.parametrize(
    "stopped",
    [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG"))],
    ids=["child-runs", "child-hangs"],
)
def test_the_child_does_not_outlive_a_killed_parent(stopped: bool) -> None:
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


@posix
def test_ctrl_c_while_the_child_starts_is_the_parents_business_too() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}" + PARENT.format(load="obeys")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert eventually(lambda: bool(psutil.Process(parent.pid).children()))
        child = psutil.Process(parent.pid).children()[0].pid
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
        assert parent.stdout.readline() == b"%d\n" % child
        parent.kill()


@pytest.mark.case("D7")
def test_a_parent_that_goes_while_it_loads_leaves_nothing_behind() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}" + PARENT.format(load="never")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert eventually(lambda: bool(psutil.Process(parent.pid).children()))
        child = psutil.Process(parent.pid).children()[0]
        parent.terminate()
        assert parent.wait(PATIENCE) != 0
    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


THREADS = ["worker outbox", "worker watchdog"]


def refuse_thread(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[str]:
    """Let the system refuse to start threads of this name, so many times; returns the names of those refused."""
    start, refused = threading.Thread.start, list[str]()

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name and len(refused) < times:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refused


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("thread", [*THREADS, "worker"])
def test_a_first_child_without_its_threads_is_out_of_memory_and_no_child(
    monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    before = children()
    refuse_thread(monkeypatch, thread, 1)
    with pytest.raises(OutOfMemoryError, match=rf"another thread \({thread}\)"):
        Worker(crashing.obeys)
    assert children() == before


@posix
@pytest.mark.parametrize("thread", THREADS)
def test_a_later_child_without_its_threads_is_killed_and_another_is_started(
    monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    before = children()
    with worker(crashing.obeys) as engine:
        dead = engine.pid
        refused = refuse_thread(monkeypatch, thread, 2)
        os.kill(dead, signal.SIGKILL)
        assert eventually(lambda: len(refused) == 2 and engine.pid != dead)
        assert works_again(engine)
        assert text(engine.submit(ask("hi"))) == "ab"
        assert children() == before | {engine.pid}
