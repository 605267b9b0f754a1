"""The chat page in a real browser: text stays text, the policy holds, keys are asked for, and any stream is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from selenium.webdriver import Chrome

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.page import page as chat_page
from support.engines.fake_engine import FakeEngine
from support.server.browser import PATIENCE, Page
from support.server.live_server import LiveServer

Piece = bytes | float | threading.Event

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


def test_a_questions_text_never_becomes_markup(driver: Chrome) -> None:
    with LiveServer(FakeEngine()) as server:
        page = Page(driver, server.url).open()
        page.find("#input").click()
        page.cdp("Input.insertText", text=HOSTILE)
        page.ask("")
        assert page.texts("article.user .body") == [HOSTILE]
        assert page.texts("#list .chat") == [HOSTILE]
        page.driver.refresh()
        assert page.driver.title == HOSTILE + " – GLM Edge"
        assert page.all("article img") == []
        assert page.complaints() == []


def test_the_policy_stops_what_would_get_in(driver: Chrome) -> None:
    attempts = {
        "markup": "document.body.innerHTML = '<b>x</b>'",
        "eval": "eval('1')",
        "script": "document.body.append(Object.assign(document.createElement('script'), {src: '/livez'}))",
        "style": "document.head.append(Object.assign(document.createElement('style'), {textContent: '*{color:red}'}))",
        "image": "document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/'}))",
        "fetch": "fetch('http://192.0.2.1/').catch(() => {})",
        "frame": "document.body.append(Object.assign(document.createElement('iframe'), {src: '/livez'}))",
    }
    collect = "window.seen = []; document.onsecuritypolicyviolation = e => seen.push(e.effectiveDirective)"
    with LiveServer(FakeEngine()) as server:
        for name, attempt in attempts.items():
            page = Page(driver, server.url).open()
            page.js(collect)
            page.js(f"setTimeout(() => {{ {attempt} }})")  # of the page; what the driver runs itself may use eval
            page.until(lambda page=page: page.js("return seen.length") > 0, f"a violation by {name}")


def test_the_page_holds_under_its_own_policy_and_loads_only_its_own_files(driver: Chrome) -> None:
    with LiveServer(FakeEngine()) as server:
        page = Page(driver, server.url).open()
        page.ask("hi")
        loaded = set(page.js("return performance.getEntriesByType('resource').map(e => e.name)"))
        assert {url for url in loaded if not url.startswith(server.url + "/page/")} == {
            server.url + "/v1/chat/completions",
            server.url + "/v1/models",
        }
        assert page.complaints() == []


def test_a_test_sees_nothing_of_an_earlier_one_at_the_same_address(driver: Chrome) -> None:
    with LiveServer(FakeEngine()) as server:
        Page(driver, server.url).open().ask("hi")
        driver.get("about:blank")
        assert Page(driver, server.url).open().texts("#list .chat") == []


class TestKeys:
    @pytest.fixture
    def page(self, driver: Chrome) -> Iterator[Page]:
        with LiveServer(FakeEngine(), policy=AccessPolicy(Keys(["sk-right"]))) as server:
            yield Page(driver, server.url).open()

    @staticmethod
    def give(page: Page, key: str) -> None:
        page.until(lambda: page.shown("#ask-key"), "the question for the key")
        page.find("#key").clear()
        page.find("#key").send_keys(key + "\n")

    def test_a_key_is_asked_for_and_kept_for_the_tab_alone(self, page: Page) -> None:
        for wrong in ("sk-wrong", "密钥"):
            self.give(page, wrong)
            page.until(lambda: page.shown("#key-wrong"), "the refusal")
        self.give(page, "sk-right")
        page.until(lambda: not page.shown("#ask-key"), "the end of the question")
        page.ask("hi")
        assert page.texts("article.assistant .body") == ["你好！"]
        assert page.stored("sessionStorage")["glm-edge.key"] == "sk-right"
        assert "sk-right" not in str(page.stored("localStorage"))
        page.driver.refresh()
        page.until(lambda: page.find("#model").text == "chatglm2-6b", "the model")
        assert not page.shown("#ask-key")

    def test_a_key_is_remembered_on_request_and_forgotten_too(self, page: Page) -> None:
        page.until(lambda: page.shown("#ask-key"), "the question for the key")
        page.click("#key-keep")
        self.give(page, "sk-right")
        page.until(lambda: not page.shown("#ask-key"), "the end of the question")
        assert page.stored("localStorage")["glm-edge.key"] == "sk-right"
        page.click("#settings-open")
        page.press("Forget the API key", "#settings")
        page.until(lambda: page.shown("#ask-key"), "the question for the key")
        assert "sk-right" not in str((page.stored("localStorage"), page.stored("sessionStorage")))

    def test_a_question_waits_for_the_key_and_is_asked_then(self, page: Page) -> None:
        page.until(lambda: page.shown("#ask-key"), "the question for the key")
        page.press("Cancel", "#ask-key")
        page.type("hi\n")
        self.give(page, "sk-right")
        page.until(lambda: page.texts("article .body") == ["hi", "你好！"], "the answer")


FILES = chat_page.load()


class Scripted(BaseHTTPRequestHandler):
    """Sends the page, and to every question the pieces of `stream`: bytes, pauses in seconds, events to wait for."""

    stream: ClassVar[Sequence[Piece]] = ()
    health: ClassVar[str | None] = None

    def do_GET(self) -> None:
        if self.path == "/health" and self.health is not None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"status": "%s"}' % self.health.encode())
            return
        file = FILES.get(self.path.removeprefix("/page/").lstrip("/") or chat_page.PAGE)
        self.send_response(200 if file else 404)
        for name, value in {**chat_page.HEADERS, "Content-Type": file.type}.items() if file else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(file.body if file else b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in self.stream:
            if isinstance(piece, bytes):
                self.wfile.write(piece)
                self.wfile.flush()
            elif isinstance(piece, float):
                time.sleep(piece)  # so that the network does not put the bytes together
            else:
                piece.wait(PATIENCE)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def scripted(driver: Chrome, *stream: Piece, health: str | None = None) -> Iterator[Page]:
    handler = type("Handler", (Scripted,), {"stream": stream, "health": health})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Page(driver, f"http://127.0.0.1:{server.server_port}/").open()
        finally:
            driver.get("about:blank")
            server.shutdown()
            thread.join()


def said(text: str) -> bytes:
    return f'data: {{"choices": [{{"delta": {{"content": "{text}"}}}}]}}'.encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_a_stream_is_read_however_it_is_cut(driver: Chrome, end: bytes) -> None:
    events = [b": ping", b"event: x" + end + said("你好"), b"id: 1" + end + said("，😀"), b"data:[DONE]", b""]
    whole = (end * 2).join(events)
    pieces = [part for i in range(len(whole)) for part in (whole[i : i + 1], 0.002)]  # byte by byte
    with scripted(driver, *pieces) as page:
        page.ask("go")
        assert page.texts("article.assistant .body") == ["你好，😀"]
        assert not page.shown(".trouble")


def test_queue_and_prefill_are_shown(driver: Chrome) -> None:
    steps = [threading.Event() for _ in range(4)]
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    stream = [b": ping\n\n", steps[0], b": queue 2 eta 30\n\n", steps[1], b": prefill 120/480\n\n", steps[2]]
    with scripted(driver, *stream, said("hi") + b"\n\n", steps[3], end) as page:
        page.type("go\n")
        states = ["waiting", "place 2 in the queue, about 30 s", "25%", "answering"]
        for step, words in zip(steps, states, strict=True):
            page.until(lambda words=words: words in page.texts("article.assistant .under")[0], words)
            if "%" in words:
                assert page.find("progress").get_property("value") == 0.25
            step.set()
        page.until(lambda: page.shown("#send"), "the end")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ([said("half") + b"\n\n"], "broke off"),
        ([said("half") + b"\n\ndata: {bad\n\n"], "broke off"),
        ([said("half") + b'\n\ndata: {"error": {"message": "m", "type": "server_error"}}\n\n'], "The server failed"),
        ([said("half") + b'\n\ndata: {"error": {"code": "shutting_down", "type": "server_error"}}\n\n'], "shutting"),
    ],
    ids=["cut", "not-json", "error-event", "shutting-down"],
)
def test_a_stream_that_breaks_is_told(driver: Chrome, stream: list[bytes], words: str) -> None:
    with scripted(driver, *stream) as page:
        page.ask("go")
        assert page.texts("article.assistant .body") == ["half"]
        assert words in page.texts(".trouble p")[0]


@pytest.mark.parametrize(
    ("health", "words"),
    [("loading", "is being started again"), ("shutting_down", "is shutting down"), ("strange", "broke off")],
)
def test_where_the_connection_breaks_the_health_of_the_server_says_why(driver: Chrome, health: str, words: str) -> None:
    with scripted(driver, said("half") + b"\n\n", health=health) as page:
        page.ask("go")
        assert page.texts("article.assistant .body") == ["half"]
        assert words in page.texts(".trouble p")[0]


def test_a_server_that_is_gone_is_told(driver: Chrome) -> None:
    with LiveServer(FakeEngine()) as server:
        page = Page(driver, server.url).open()
        page.until(lambda: page.find("#model").text == "chatglm2-6b", "the model")
    page.ask("hi")
    assert "cannot be reached" in page.texts(".trouble p")[0]
