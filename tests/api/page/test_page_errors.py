"""The chat page in a real browser: every way in which an answer can wait or fail, told in both languages.

Real servers; one has its engine in a process of its own, which is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver import Chrome

from glm_edge.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineDiedError,
    EngineError,
    GlmEdgeError,
    LoadingError,
    OverloadedError,
    RateLimitError,
    RepeatedCrashError,
)
from glm_edge.generation import Progress
from support.engines import crashing_engines as crashing
from support.engines.engine_requests import worker, works_again
from support.engines.fake_engine import FakeEngine, Script
from support.server.browser import Page
from support.server.live_server import LiveServer, eventually

# error, what is said of it, and of the time to wait, which only a status brings
TOLD = {
    "engine_died": (EngineDiedError("x"), "is being started again. You can ask", "正在重新启动。可以重新提问", ""),
    "engine_crash": (RepeatedCrashError("x"), "the server refuses it for a while", "暂时拒绝此问题", ""),
    "loading": (LoadingError("x", retry_after=90), "still being loaded.", "模型仍在加载。", " s."),
    "overloaded": (OverloadedError("x", retry_after=400), "busy with other questions.", "服务器正忙", " 60 s."),
    "share": (RateLimitError("x", retry_after=30), "This key has as many answers", "此密钥同时进行的回答", " s."),
    "closed": (EngineClosedError("x"), "The server is shutting down.", "服务器正在关闭。", " s."),
    "failed": (EngineError("x"), "The server failed on this question: the engine", "服务器处理此问题时出错：", ""),
    "too-long": (ContextLengthError(9000, 8192), "too long for the model", "问题就超出了模型的长度", ""),
}


@contextmanager
def served(driver: Chrome, script: Script, slots: int = 4, **options: int) -> Iterator[tuple[Page, FakeEngine]]:
    engine = FakeEngine(script, slots=slots)
    with LiveServer(engine, **options) as server:
        page = Page(driver, server.url).open()
        yield page, engine
        assert page.complaints() == []
        driver.get("about:blank")


@pytest.mark.parametrize("text", ["", "half"], ids=["as-a-status", "in-the-stream"])
@pytest.mark.parametrize(("error", "english", "chinese", "wait"), TOLD.values(), ids=TOLD)
def test_each_error_is_told_in_both_languages(
    driver: Chrome, error: GlmEdgeError, english: str, chinese: str, wait: str, text: str
) -> None:
    seen = threading.Event()
    with served(driver, [text, seen, error] if text else [error]) as (page, _):
        page.type("hi\n")
        if text:
            page.until(lambda: page.texts("article.assistant .body") == [text], "the first word")
        seen.set()
        page.until(lambda: page.shown(".trouble"), "the error")
        told = page.find(".trouble[role=alert] p").text
        assert english in told
        assert ("Try again in" in told) == (wait in told and wait != "" and text == "")
        assert page.texts("article.assistant .body") == ([text] if text else [])
        page.press("中文")
        told = page.find(".trouble p").text
        assert chinese in told
        assert ("后重试。" in told) == (wait != "" and text == "")
        assert [words for words in page.texts("main button") if words == "重新回答"] == ["重新回答"]  # one of them


def test_a_wait_is_told_by_its_place_and_time_then_by_what_is_read(driver: Chrome) -> None:
    first, second, last = (threading.Event() for _ in range(3))
    scripts = iter([["one", first], [Progress(done=120, total=480), second, "two", last, "!"]])
    with served(driver, lambda _: next(scripts), slots=1) as (page, engine):
        engine.answer_s = 14.2

        def under() -> str:
            return page.texts("article.assistant .under")[0]

        page.type("a\n")
        page.until(lambda: page.texts("article.assistant .body") == ["one"], "the first answer")
        page.click("#new")
        page.type("b\n")
        page.until(lambda: under() == "waiting, place 1 in the queue, about 15 s", "the place")
        page.press("中文")
        assert under() == "排队中，第 1 位，约 15 秒"
        first.set()
        page.until(lambda: under() == "正在读题，480 个 token 已读 25%", "how much is read")
        assert page.find("progress").get_property("value") == 0.25
        page.press("English")
        assert under() == "reading the question, 25% of 480 tokens"
        assert page.find("progress").get_attribute("aria-label") == "Reading the question"
        second.set()
        page.until(lambda: under().startswith("answering"), "the answer")
        assert not page.shown("progress")
        last.set()
        page.until(lambda: "tokens/s" in under(), "the speed")


def test_a_screen_reader_hears_of_a_place_once(driver: Chrome) -> None:
    rest = threading.Event()
    with served(driver, [rest, "hi"], slots=1) as (page, engine):
        page.type("a\n")
        assert eventually(lambda: len(engine.played) == 1)
        page.click("#new")
        page.type("b\n")
        for seconds in (30, 20, 10):
            engine.answer_s = seconds
            page.until(lambda s=seconds: f"about {s} s" in page.texts("article.assistant .under")[0], "the time")
        spoken = page.js("return [...document.querySelectorAll('#live p')].map(n => n.textContent)")
        assert len([words for words in spoken if "place 1" in words]) == 1
        rest.set()
        page.until(lambda: page.shown("#send"), "the answer")


def test_the_share_of_a_key_is_told(driver: Chrome) -> None:
    rest = threading.Event()
    with served(driver, ["one", rest], per_key=1) as (page, _):
        page.type("a\n")
        page.until(lambda: page.texts("article.assistant .body") == ["one"], "the first answer")
        page.click("#new")
        page.ask("b")
        assert "This key has as many answers under way" in page.texts(".trouble p")[0]
        assert "Try again in 5 s." in page.texts(".trouble p")[0]
        rest.set()


@pytest.mark.case("O7")
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_the_engine_is_killed_and_the_conversation_goes_on(driver: Chrome) -> None:
    with worker(crashing.obeys) as engine, LiveServer(engine) as server:
        page = Page(driver, server.url).open()
        page.type("hang\n")
        page.until(lambda: page.texts("article.assistant .body") == ["a"], "the first word")
        os.kill(engine.pid, signal.SIGKILL)
        page.until(lambda: page.shown(".trouble"), "the error")
        assert "is being started again" in page.texts(".trouble p")[0]
        assert page.texts("article.assistant .body") == ["a"]
        assert "cut short" in page.texts("article.assistant .under")[0]
        assert works_again(engine)
        page.ask("go on")
        assert page.texts("article.assistant .body") == ["a", "ab"]
        assert not page.shown(".trouble")
        driver.get("about:blank")


def test_a_page_that_is_opened_while_the_model_loads_goes_on_by_itself(driver: Chrome) -> None:
    engine = FakeEngine()
    with LiveServer(engine, loading=True) as server:
        page = Page(driver, server.url).open()
        page.until(lambda: page.find("#notice p").text == "The model is still being loaded.", "the notice")
        page.press("中文")
        assert page.find("#notice").text == "模型仍在加载。\n重新连接"
        server.admission.ready(engine)
        page.until(lambda: page.find("#model").text == "chatglm2-6b", "the model")
        assert not page.shown("#notice")
        driver.get("about:blank")
